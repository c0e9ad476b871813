"""Builds recipes/data/digits: the handwritten digits that come with scikit-learn, as pictures in Hub layout.

python recipes/data/build_digits.py
"""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
from hub_layout import parse_arguments, write_parquet
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SIZES = {"test": 500, "validation": 297}


def build(output: Path) -> dict[str, int]:
    """Writes stratified splits below ``output/data``. Returns their sizes."""
    digits = load_digits()
    # 0..16 -> 0..255, dark on light as on paper.
    pictures = [Image.fromarray((255 - image * 255 / 16).astype(np.uint8)) for image in digits.images]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    rest, rows = np.arange(len(pictures)), {}
    for split, size in SIZES.items():
        rest, rows[split] = train_test_split(rest, test_size=size, stratify=digits.target[rest], random_state=0)
    rows["train"] = rest
    for split, chosen in rows.items():
        columns = {"image": [pictures[row] for row in chosen], "label": digits.target[chosen].tolist()}
        data = datasets.Dataset.from_dict(columns, features)
        write_parquet(data, output / "data" / f"{split}-00000-of-00001.parquet")
    return {split: len(chosen) for split, chosen in rows.items()}


if __name__ == "__main__":
    print(build(parse_arguments(__doc__, Path(__file__).parent / "digits").output))
