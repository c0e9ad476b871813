"""Trains a supernet of the planted task and writes its weights: python supernet_worker.py BATCH_SIZE FILE."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def main(batch_size: int, file: str) -> None:
    from planted import PlantedModel, planted_split
    from safetensors.torch import save_file

    from hf_fsl.search.data import SearchData
    from hf_fsl.search.space import SearchSpace, find_sites
    from hf_fsl.search.supernet import SupernetConfig, train_supernet
    from hf_fsl.training import make_accelerator

    accelerator = make_accelerator()
    model = PlantedModel()
    space = SearchSpace.from_dict({"ranks": [0, 1, 2]}, find_sites(model, ["classifier"]))
    config = SupernetConfig(
        max_steps=10,
        learning_rate=1e-2,
        per_device_train_batch_size=batch_size,
        eval_steps=5,
        head_steps=2,
        reorder="never",  # singular vectors have no sign of their own
    )
    data = SearchData(planted_split(64, 1), planted_split(32, 2))
    trained = train_supernet(
        model, data, space, config, accelerator=accelerator, folder=Path(file).with_suffix(".folder")
    )
    if accelerator.is_main_process:
        state = {name: value.contiguous() for name, value in trained.supernet.state().items()}
        save_file({f"{accelerator.num_processes}/{name}": value for name, value in state.items()}, file)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
