"""Keeps a model that LoRA made of all-MiniLM-L6-v2 as what it adds to it, small enough to come along.

    python recipes/backbones/build_overlay.py outputs/wordnet-nli/bundle recipes/backbones/minilm-wordnet-nli

``hf-fsl hub seed`` puts the two together again (hf_fsl/hub/overlay.py). The card is written by hand.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from hf_fsl.core.files import atomic_write
from hf_fsl.hub.overlay import DOWN, OVERLAY, UP
from hf_fsl.hub.seed import MINILM

LEADING = "base_model.model."


def low_rank(adapter: Path) -> dict[str, np.ndarray]:
    """What an adapter adds: its products by the name of the weight, and the modules that it trained in full."""
    settings = json.loads((adapter / "adapter_config.json").read_text())
    if any(settings.get(name) for name in ("rank_pattern", "alpha_pattern", "use_rslora", "use_dora")):
        raise SystemExit("Plain LoRA of one rank only.")
    scaling = settings["lora_alpha"] / settings["r"]
    added = {}
    for full, values in load_file(adapter / "adapter_model.safetensors").items():
        name = full.removeprefix(LEADING)
        if name.endswith(".lora_A.weight"):
            added[name.removesuffix("lora_A.weight") + "weight" + DOWN] = values
        elif name.endswith(".lora_B.weight"):
            added[name.removesuffix("lora_B.weight") + "weight" + UP] = scaling * values
        else:
            added[name] = values
    return {name: values.astype(np.float16) for name, values in added.items()}


def main(bundle: Path, folder: Path) -> None:
    added = low_rank(bundle / "adapter")
    folder.mkdir(parents=True, exist_ok=True)
    prefix = json.loads((bundle / "config.json").read_text())["model_type"] + "."
    with atomic_write(folder / OVERLAY) as temporary:
        save_file(added, temporary, metadata={"format": "pt", "base": MINILM, "prefix": prefix})
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copy(bundle / name, folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
