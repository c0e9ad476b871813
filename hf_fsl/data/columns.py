"""A source's columns and labels -> the columns and label indices that everything else uses."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
from PIL import Image

from hf_fsl.config import DataConfig
from hf_fsl.data.errors import DataError

_SHOWN = 5


def map_columns(data: datasets.Dataset, split: str, config: DataConfig) -> datasets.Dataset:
    """Renames the columns of the config to ``text``, ``text_pair``, ``image`` and ``label``, drops all others.

    Raises:
        DataError: a column is missing, a text is empty, an image cannot be read.
    """
    wanted = {
        "text": config.text_column,
        "text_pair": config.text_pair_column,
        "image": config.image_column,
        "label": config.label_column,
    }
    names = {new: old for new, old in wanted.items() if old is not None}
    for new, old in names.items():
        if old not in data.column_names:
            close = difflib.get_close_matches(old, data.column_names, n=1)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(
                f"data.{new}_column: split {split!r} of {config.path} has no column {old!r}; "
                f"it has {', '.join(data.column_names)}.{guess}"
            )
    mapped = data.select_columns(list(dict.fromkeys(names.values())))
    mapped = mapped.rename_columns({old: new for new, old in names.items() if old != new})
    for column in ("text", "text_pair"):
        if column in names:
            _check_texts(mapped[column], split, config)
    if "image" in names:
        mapped = _check_images(mapped, split, config)
    return mapped


def label_names(train: datasets.Dataset, config: DataConfig) -> list[str]:
    """The names of the classes: from the column's type, from the config, or the labels that occur in training."""
    feature = _inner(train.features["label"])
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    values = sorted({value for row in train["label"] for value in _as_list(row, config)}, key=_natural)
    if config.label_names is None:
        return [str(value) for value in values]
    if all(isinstance(value, int) for value in values):
        top = max(values, default=-1)
        if top >= len(config.label_names):
            raise DataError(
                f"data.label_names names {len(config.label_names)} classes, but label {top} occurs; "
                f"at least {top + 1} names are needed."
            )
    return list(config.label_names)


def map_labels(data: datasets.Dataset, split: str, names: Sequence[str], config: DataConfig) -> datasets.Dataset:
    """Labels -> indices into ``names``: one an example, or a list of them for multi-label tasks.

    Raises:
        DataError: labels that are missing, or that do not occur among ``names``.
    """
    feature = _inner(data.features["label"])
    index = {name: position for position, name in enumerate(names)}
    own = feature.names if isinstance(feature, datasets.ClassLabel) else None
    mapped: list[Any] = []
    missing: list[int] = []
    unknown: Counter[str] = Counter()
    for row, value in enumerate(data["label"]):
        indices = []
        for label in _as_list(value, config):
            if label is None or (isinstance(label, int) and not isinstance(label, bool) and label < 0):
                missing.append(row)
                continue
            name = _name(label, own, names, config)
            if name in index:
                indices.append(index[name])
            else:
                unknown[name] += 1
        mapped.append(indices if _multi(config) else (indices[0] if indices else -1))
    if missing:
        raise DataError(
            f"{len(missing)} examples of split {split!r} have no label (rows {_rows(missing)}). "
            "Set data.drop_unlabelled: true, or remove them from the data."
        )
    if unknown:
        listed = ", ".join(f"{name!r} ({count})" for name, count in unknown.most_common(_SHOWN))
        raise DataError(
            f"Split {split!r} has labels that the classes do not contain: {listed}. The classes are "
            f"{', '.join(names)}. Remove these examples, or give training examples of those classes."
        )
    target = datasets.Value("int64")
    kind = datasets.List(target) if _multi(config) else target
    columns = data.remove_columns("label")
    return columns.add_column("label", mapped, feature=kind)


def drop_unlabelled(data: datasets.Dataset, config: DataConfig) -> datasets.Dataset:
    """Without the examples whose label is missing or negative (SNLI's -1)."""
    kept = [
        row
        for row, value in enumerate(data["label"])
        if value is not None and not any(_is_missing(label) for label in _as_list(value, config))
    ]
    return data.select(kept) if len(kept) < len(data) else data


def _check_texts(texts: Sequence[Any], split: str, config: DataConfig) -> None:
    wrong = [row for row, text in enumerate(texts) if not isinstance(text, str)]
    if wrong:
        raise DataError(
            f"data.text_column: {len(wrong)} values in split {split!r} of {config.path} are not text "
            f"(rows {_rows(wrong)}; the first is {texts[wrong[0]]!r})."
        )
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        raise DataError(
            f"{len(empty)} texts in split {split!r} of {config.path} are empty (rows {_rows(empty)}). "
            "Fill or remove them."
        )


def _check_images(data: datasets.Dataset, split: str, config: DataConfig) -> datasets.Dataset:
    if not isinstance(data.features["image"], datasets.Image):
        try:
            data = data.cast_column("image", datasets.Image())
        except Exception as error:
            raise DataError(
                f"data.image_column: {config.image_column!r} holds {data.features['image']}, not images ({error})."
            ) from error
    for row, raw in enumerate(data.cast_column("image", datasets.Image(decode=False))["image"]):
        try:
            with open_image(raw) as image:
                image.verify()
        except Exception as error:
            where = (raw or {}).get("path") or "in the data set"
            raise DataError(
                f"Image {row} of split {split!r} ({where}) cannot be read: {error}. Replace or remove it."
            ) from error
    return data


def open_image(raw: dict[str, Any] | None) -> Image.Image:
    """The picture behind an undecoded ``datasets.Image`` value."""
    import io

    if raw is None:
        raise ValueError("there is no image")
    return Image.open(io.BytesIO(raw["bytes"]) if raw["bytes"] is not None else raw["path"])


def _name(label: Any, own: list[str] | None, names: Sequence[str], config: DataConfig) -> str:
    if isinstance(label, str):
        return label
    if own is not None:
        return own[label]
    if config.label_names is not None and isinstance(label, int) and label < len(names):
        return names[label]
    return str(label)


def _as_list(value: Any, config: DataConfig) -> list[Any]:
    if not _multi(config):
        if isinstance(value, (list, tuple)):
            raise DataError(
                f"data.label_column: {config.label_column!r} holds lists of labels ({value!r}). "
                "Set data.problem_type: multi_label_classification."
            )
        return [value]
    if value is None:
        return [None]
    if not isinstance(value, (list, tuple)):
        raise DataError(
            f"data.problem_type is multi_label_classification, but column {config.label_column!r} holds single "
            f"labels ({value!r})."
        )
    return list(value)


def _is_missing(label: Any) -> bool:
    return label is None or (isinstance(label, int) and not isinstance(label, bool) and label < 0)


def _multi(config: DataConfig) -> bool:
    return config.problem_type == "multi_label_classification"


def _inner(feature: Any) -> Any:
    return feature.feature if isinstance(feature, datasets.List) else feature


def _natural(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, (int, float)) else (1, str(value))


def _rows(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:_SHOWN])) + (", …" if len(rows) > _SHOWN else "")
