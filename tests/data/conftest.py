"""Small real files: csv, parquet, folders of images, a folder in Hub layout."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_fsl.config import DataConfig


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def build_rows(count: int, classes: tuple[Any, ...] = ("animal", "food", "time"), start: int = 0) -> list[dict]:
    """Different texts, the classes in turn."""
    return [{"text": f"example number {start + i}", "label": classes[i % len(classes)]} for i in range(count)]


@pytest.fixture
def rows() -> Callable[..., list[dict]]:
    return build_rows


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """``write("a.csv", rows)``: a file of that kind below tmp_path."""

    def write(name: str, rows: list[dict[str, Any]], features: datasets.Features | None = None) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".jsonl", ".json"):
            path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
            return str(path)
        data = datasets.Dataset.from_list(rows, features=features)
        if path.suffix == ".parquet":
            data.to_parquet(path)
        else:
            data.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
        return str(path)

    return write


@pytest.fixture
def made() -> Callable[..., DataConfig]:
    """A config whose missing splits are set aside."""

    def config(path: str | Path, **options: Any) -> DataConfig:
        defaults: dict[str, Any] = {"validation_split": None, "test_split": None}
        if "image_column" not in options:
            defaults["text_column"] = "text"
        return DataConfig(path=str(path), **defaults | options)

    return config


@pytest.fixture
def three_files(write: Callable[..., str], tmp_path: Path) -> Callable[..., DataConfig]:
    """A folder with train, validation and test, read as it is."""

    def folder(train: list[dict], validation: list[dict], test: list[dict], **options: Any) -> DataConfig:
        for split, part in (("train", train), ("validation", validation), ("test", test)):
            write(f"three/{split}.jsonl", part)
        return DataConfig(path=str(tmp_path / "three"), **{"text_column": "text"} | options)

    return folder


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """Random pixels, the same for the same seed."""

    def picture(seed: int, size: int = 8) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return picture


@pytest.fixture
def image_folder(tmp_path: Path, picture: Callable[..., Image.Image]) -> Path:
    """``<split>/<class>/<n>.png``: 6 + 2 + 2 pictures of each of two classes."""
    seed = 0
    for split, count in (("train", 6), ("validation", 2), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture(seed).save(folder / f"{number}.png")
                seed += 1
    return tmp_path / "pictures"


@pytest.fixture
def hub_folder(write: Callable[..., str], tmp_path: Path) -> Path:
    """A folder in Hub layout with the configurations large (the default) and small, and a licence."""
    splits = ("train", "validation", "test")
    card = "---\nlicense: cc-by-4.0\nconfigs:\n"
    for name, classes in (("small", ("x", "y")), ("large", ("a", "b", "c"))):
        text, number = datasets.Value("string"), datasets.Value("int64")
        features = datasets.Features(text=text, label=datasets.ClassLabel(names=list(classes)), id=number)
        for position, split in enumerate(splits):
            part = [row | {"id": i} for i, row in enumerate(build_rows(12, classes, start=100 * position))]
            write(f"repo/{name}/{split}.parquet", part, features)
        card += f"- config_name: {name}\n  data_files:\n"
        card += "".join(f"  - split: {split}\n    path: {name}/{split}.parquet\n" for split in splits)
        card += "  default: true\n" if name == "large" else ""
    (tmp_path / "repo" / "README.md").write_text(card + "---\n# Data\n")
    return tmp_path / "repo"


@pytest.fixture
def place(tmp_path: Path, picture: Callable[..., Image.Image]) -> Callable[..., Path]:
    """``place("cat/1.png", …)``: different pictures in those files below a folder, which is returned."""
    kinds = {".jpeg": "JPEG", ".jpg": "JPEG", ".bmp": "BMP"}

    def place(*names: str, root: str = "animals") -> Path:
        for name in names:
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(zlib.crc32(name.encode())).save(path, kinds.get(path.suffix.lower(), "PNG"))
        return tmp_path / root

    return place
