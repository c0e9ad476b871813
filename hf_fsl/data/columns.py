"""A source's columns -> ``text``, ``text_pair``, ``image`` and ``label``, their content checked."""

from __future__ import annotations

import difflib
import io
from collections.abc import Sequence
from typing import Any

import datasets
from PIL import Image
from tqdm import tqdm

from hf_fsl.config.sections import DataConfig
from hf_fsl.core.label_values import is_missing
from hf_fsl.data.errors import DataError, listed

_SHOWN = 5
_QUIET = 2000  # below so many pictures a progress bar is only noise


def map_columns(data: datasets.Dataset, split: str, config: DataConfig) -> datasets.Dataset:
    """Renames the columns of the config to ``text``, ``text_pair``, ``image``, ``label``, ``item``; drops others.

    Of several label columns ``label`` is the list of those that hold a 1. Rows with an empty text are left out where
    the config says so.

    Raises:
        DataError: a column is missing or named twice, a text is empty, an image cannot be read.
    """
    wanted = {
        "text": config.text_column,
        "text_pair": config.text_pair_column,
        "image": config.image_column,
        "label": config.label_column if isinstance(config.label_column, str) else None,
        "item": config.item_column,
    }
    names = {new: old for new, old in wanted.items() if old is not None}
    flags = config.label_column if isinstance(config.label_column, list) else []
    roles = [*names.items(), *(("label", old) for old in flags)]
    for new, old in roles:
        if old not in data.column_names:
            close = difflib.get_close_matches(old, data.column_names, n=1)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(
                f"data.{new}_column: split {split!r} of {config.path} has no column {old!r}; "
                f"it has {listed(data.column_names, 30)}.{guess}"
            )
    if len({old for _, old in roles}) < len(roles):
        used = ", ".join(f"{new}_column: {old}" for new, old in roles)
        raise DataError(f"data: every column has one role, but one is named twice ({used}). Name different columns.")
    mapped = data.select_columns(list(names.values()))
    mapped = mapped.rename_columns({old: new for new, old in names.items() if old != new})
    if flags:
        classes = datasets.List(datasets.ClassLabel(names=flags))
        mapped = mapped.add_column("label", _flagged(data, flags, split, config), feature=classes)
    filled = _rows_with_texts(mapped, split, config)
    mapped = mapped.select(filled) if len(filled) < len(mapped) else mapped
    return check_images(mapped, split, config) if "image" in names else mapped


def raw_images(data: datasets.Dataset) -> datasets.Dataset:
    """The image column alone, as ``{"bytes": …, "path": …}``: nothing is decoded on the way."""
    return data.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))


def open_image(raw: dict[str, Any] | None) -> Image.Image:
    """The picture behind a value of :func:`raw_images`."""
    if raw is None:
        raise ValueError("there is no image")
    return Image.open(io.BytesIO(raw["bytes"]) if raw["bytes"] is not None else raw["path"])


def unreadable_image(row: int, raw: dict[str, Any] | None, split: str, error: Exception) -> DataError:
    """The error of a picture that cannot be decoded."""
    where = (raw or {}).get("path") or "stored in the data set"
    return DataError(f"Image {row} of split {split!r} ({where}) cannot be read: {error}. Replace or remove it.")


def row_list(rows: Sequence[int]) -> str:
    """``3, 7, 9, …``"""
    return ", ".join(map(str, rows[:_SHOWN])) + (", …" if len(rows) > _SHOWN else "")


def image_progress(images: datasets.Dataset, what: str) -> Any:
    """The rows of an image column, with a progress bar where it takes long."""
    return tqdm(images, desc=what, unit="img", disable=len(images) < _QUIET, leave=False)


def _rows_with_texts(data: datasets.Dataset, split: str, config: DataConfig) -> list[int]:
    """The rows whose texts are all there: all rows, unless ``on_empty`` says to skip others."""
    empty: set[int] = set()
    for column in ("text", "text_pair"):
        if column not in data.column_names:
            continue
        texts = data[column][:]
        wrong = [row for row, text in enumerate(texts) if text is not None and not isinstance(text, str)]
        if wrong:
            raise DataError(
                f"data.{column}_column: {len(wrong)} values in split {split!r} of {config.path} are not text "
                f"(rows {row_list(wrong)}; the first is {texts[wrong[0]]!r}). Name a column of texts."
            )
        without = [row for row, text in enumerate(texts) if text is None or not text.strip()]
        if without and config.on_empty == "error":
            raise DataError(
                f"data.{column}_column: {len(without)} texts in split {split!r} of {config.path} are empty "
                f"(rows {row_list(without)}). Fill or remove them, or set data.on_empty: skip to leave them out."
            )
        empty.update(without)
    return [row for row in range(len(data)) if row not in empty]


def _flagged(data: datasets.Dataset, columns: Sequence[str], split: str, config: DataConfig) -> list[list[int] | None]:
    """Of each row the numbers of the columns that hold a 1; None where a cell is empty."""
    rows = list(zip(*(data[column][:] for column in columns), strict=True))
    for number, row in enumerate(rows):
        for column, value in zip(columns, row, strict=True):
            if not is_missing(value) and value not in (0, 1):
                raise DataError(
                    f"data.label_column: of several columns each holds a 0 or 1, but {column!r} holds {value!r} (row "
                    f"{number} of split {split!r} of {config.path}). Name one column, or columns of 0 and 1."
                )
    return [
        None if any(map(is_missing, row)) else [number for number, value in enumerate(row) if value] for row in rows
    ]


def check_images(data: datasets.Dataset, split: str, config: DataConfig) -> datasets.Dataset:
    """The split with its column ``image`` decoded as it is read. Raises DataError for what is no picture."""
    kind = data.features["image"]
    try:
        # also an image column that was switched to raw bytes decodes again
        data = data.cast_column("image", datasets.Image())
        images = raw_images(data)
        _ = images[:1]
    except Exception as error:
        raise DataError(f"data.image_column: {config.image_column!r} holds {kind}, not images ({error}).") from error
    for row, example in enumerate(image_progress(images, f"checking {split}")):
        try:
            with open_image(example["image"]) as image:
                image.verify()
        except Exception as error:
            raise unreadable_image(row, example["image"], split, error) from error
    return data
