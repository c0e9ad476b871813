"""Peak memory of a process that adapts a backbone to few or to many examples."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

STATUS = Path("/proc/self/status")
SIDE = 32
WORDS = ["cat", "dog", "bird", "fish", "house", "river", "tree", "rain", "car", "train", "film", "sun"]


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="reads a process's peak from /proc")
@pytest.mark.parametrize("first_layer", [0, 1])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_it_grows_with_the_batch_not_with_the_number_of_examples(modality, first_layer, text_backbone, tmp_path):
    """Half of the examples are drawn; their pixels, or pictures' states below the cut, do not fit into 1.3."""
    backbone = text_backbone if modality == "text" else small_vit(tmp_path)
    few, many = (peak_of_process(backbone, modality, count, first_layer) for count in (4_000, 40_000))
    assert many < 1.3 * few, (few, many)


def small_vit(folder: Path) -> Path:
    import transformers as t

    config = t.ViTConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=SIDE,
        patch_size=8,
    )
    t.ViTModel(config).save_pretrained(folder)
    t.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def peak_of_process(backbone, modality: str, count: int, first_layer: int) -> int:
    """Bytes."""
    root = Path(__file__).parents[3]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, __file__, str(backbone), modality, str(count), str(first_layer)],
        env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split()[-1])


def _adapt(folder: str, modality: str, count: int, first_layer: int) -> None:
    from hf_fsl import Backbone
    from hf_fsl.config import AdaptationConfig, AdapterConfig
    from hf_fsl.few_shot.adaptation import adapt

    config = AdaptationConfig(
        steps=count // 100, batch_size=64, examples_per_class=4, mixed_precision="no", cache_bytes=1 << 20
    )
    inputs = _texts(count) if modality == "text" else _images(count)
    adapt(
        Backbone.from_pretrained(folder), inputs, [row % 50 for row in range(count)],
        replace(config, first_layer=first_layer), adapter=AdapterConfig(method="full"),
    )  # fmt: skip
    # Not ru_maxrss: that of a process starts with the peak of the one which started it.
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    print(int(line.split()[1]) * 1024)


def _texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(words) for words in np.array(WORDS)[rng.integers(len(WORDS), size=(count, 50))]]


def _images(count: int):
    """A data set's column, whose pictures are read when they are needed: of one colour each, so as to be small."""
    import datasets
    from PIL import Image

    rng, rows = np.random.default_rng(0), []
    for _ in range(count):
        file = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(0, 255, 3).tolist())).save(file, "png")
        rows.append({"bytes": file.getvalue(), "path": None})
    return datasets.Dataset.from_dict({"image": rows}, features=datasets.Features(image=datasets.Image()))["image"]


if __name__ == "__main__":
    _adapt(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
