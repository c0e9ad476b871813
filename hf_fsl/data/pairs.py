"""A data set at a revision -> pictures with all that is said of them, for image-text training."""

from __future__ import annotations

import difflib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from hf_fsl.config.contrastive import PairsConfig, caption_columns
from hf_fsl.config.sections import DataConfig
from hf_fsl.core.label_values import is_missing
from hf_fsl.core.records import DataRecord, SplitRecord
from hf_fsl.data.columns import check_images, row_list
from hf_fsl.data.errors import DataError, listed
from hf_fsl.data.overlap import example_keys, find_overlap
from hf_fsl.data.sources import Source, read_source


@dataclass(frozen=True)
class PairSplit:
    """N pictures and their texts."""

    name: str
    """In the source; with its configuration where that is another than the run's."""
    images: datasets.Dataset
    """One column, ``image``, decoded when it is read."""
    captions: list[list[str]]
    """All that is said of each picture, each once."""
    retrieval: list[str]
    """By which each picture is to be found again."""
    labels: list[int] | None
    """Index of each picture's class in ``classes``; None without a class column."""
    classes: list[str]
    """Names of the classes that occur in this split."""

    def __len__(self) -> int:
        return len(self.images)

    def record(self) -> SplitRecord:
        counts = Counter(self.classes[label] for label in self.labels or [])
        return SplitRecord(name=self.name, rows=len(self), class_counts={name: counts[name] for name in self.classes})


@dataclass(frozen=True)
class Pairs:
    """The splits of a run; ``tests`` holds ``test`` and whatever shifts the config names."""

    train: PairSplit
    validation: PairSplit
    tests: dict[str, PairSplit]
    record: DataRecord


def load_pairs(config: PairsConfig) -> Pairs:
    """Loads the splits and fills the caption templates.

    Raises:
        DataError: a split, a column or a class is not there, a caption is empty, or splits share a picture.
    """
    source = read_source(_source(config, config.name))
    named = {"train": config.train_split, "validation": config.validation_split, "test": config.test_split}
    data = {role: _rows(source, split, config) for role, split in named.items()}
    pictures = {role: _pictures(rows, config, named[role]) for role, rows in data.items()}
    keys = {role: example_keys(pictures[role], named[role]) for role in named}
    overlap = find_overlap(pictures, keys, config.on_overlap)
    splits = {}
    for role, name in named.items():
        most = config.max_train_samples if role == "train" else config.max_eval_samples
        splits[role] = _split(data[role], pictures[role], overlap.kept[role], name, config, most)
    tests = {"test": splits["test"]}
    for shift, configuration in config.shifts.items():
        rows, name = _rows(read_source(_source(config, configuration)), config.test_split, config), config.test_split
        images, every = _pictures(rows, config, name), list(range(len(rows)))
        tests[shift] = _split(rows, images, every, f"{configuration}: {name}", config, config.max_eval_samples)
    record = DataRecord(
        path=config.path,
        name=source.name,
        revision=source.revision,
        license=source.license,
        splits={role: split.record() for role, split in ({**splits, **tests}).items()},
        on_overlap=config.on_overlap,
        overlap=overlap.counts,
        dropped=overlap.dropped,
    )
    return Pairs(splits["train"], splits["validation"], tests, record)


def _source(config: PairsConfig, name: str | None) -> DataConfig:
    return DataConfig(
        path=config.path, name=name, revision=config.revision, data_files=config.data_files,
        image_column=config.image_column, train_split=config.train_split,
    )  # fmt: skip


def _rows(source: Source, split: str, config: PairsConfig) -> datasets.Dataset:
    if split not in source.splits:
        raise DataError(
            f"data: {config.path} has no split {split!r}; it has {listed(list(source.splits))}. Name these as "
            "train_split, validation_split and test_split."
        )
    data = source.splits[split]
    wanted = {"image_column": [config.image_column]}
    wanted["captions"] = [column for template in config.captions for column in caption_columns(template)]
    wanted["retrieval_caption"] = caption_columns(config.retrieval_caption or "")
    wanted["class_column"] = [config.class_column] if config.class_column is not None else []
    for setting, columns in wanted.items():
        for column in columns:
            if column not in data.column_names:
                close = difflib.get_close_matches(column, data.column_names, n=1)
                guess = f" Did you mean {close[0]!r}?" if close else ""
                raise DataError(
                    f"data.{setting}: split {split!r} of {config.path} has no column {column!r}; "
                    f"it has {listed(data.column_names, 30)}.{guess}"
                )
    return data


def _pictures(data: datasets.Dataset, config: PairsConfig, split: str) -> datasets.Dataset:
    images = data.select_columns([config.image_column])
    if config.image_column != "image":
        images = images.rename_column(config.image_column, "image")
    return check_images(images, split, _source(config, None))


def _split(
    data: datasets.Dataset,
    images: datasets.Dataset,
    rows: list[int],
    name: str,
    config: PairsConfig,
    most: int | None,
) -> PairSplit:
    if most is not None and most < len(rows):
        rows = sorted(random.Random(0).sample(rows, most))
    if len(rows) < 2:
        raise DataError(f"Split {name!r} of {config.path} has {len(rows)} pictures; contrasting needs at least 2.")
    data, images = data.select(rows), images.select(rows)
    columns = _columns(data, config)
    captions = [
        list(dict.fromkeys(text for template in config.captions for text in _fill(template, columns, row)))
        for row in range(len(rows))
    ]
    template = config.retrieval_caption or config.captions[0]
    retrieval = [next(iter(_fill(template, columns, row)), "") for row in range(len(rows))]
    for setting, lacking in (
        ("captions", [row for row, texts in enumerate(captions) if not texts]),
        ("retrieval_caption", [row for row, text in enumerate(retrieval) if not text]),
    ):
        if lacking:
            raise DataError(
                f"data.{setting}: {len(lacking)} pictures in split {name!r} of {config.path} have no text "
                f"(rows {row_list(lacking)}). Fill or remove them."
            )
    labels: list[int] | None = None
    classes: list[str] = []
    if config.class_column is not None:
        given = columns[config.class_column]
        if any(not isinstance(value, str) or is_missing(value) for value in given):
            raise DataError(f"data.class_column: {config.class_column!r} of split {name!r} holds no class names.")
        classes = sorted(set(given))
        labels = [classes.index(value) for value in given]
    return PairSplit(name, images, captions, retrieval, labels, classes)


def _columns(data: datasets.Dataset, config: PairsConfig) -> dict[str, list[Any]]:
    """Values of every column but the picture; of class labels their names, in words."""
    names = {column for template in (*config.captions, config.retrieval_caption or "")
             for column in caption_columns(template)}  # fmt: skip
    names |= {config.class_column} if config.class_column is not None else set()
    columns = {}
    for name in sorted(names):
        values: Sequence[Any] = data[name][:]
        feature = data.features[name]
        if isinstance(feature, datasets.ClassLabel):
            values = [_words(feature.names[value]) if value is not None and value >= 0 else "" for value in values]
        columns[name] = list(values)
    return columns


def _words(name: str) -> str:
    return name.replace("-", " ").replace("_", " ")


def _fill(template: str, columns: dict[str, list[Any]], row: int) -> list[str]:
    """The captions that a template gives for a row: none where a value is missing, several where one is a list."""
    values = {name: columns[name][row] for name in caption_columns(template)}
    several = [name for name, value in values.items() if isinstance(value, (list, tuple))]
    rows = [values]
    if several:
        rows = [{**values, several[0]: element} for element in values[several[0]]]
    filled = []
    for one in rows:
        if all(isinstance(value, (str, int, float)) and str(value).strip() for value in one.values()):
            filled.append(template.format(**one).strip())
    return filled
