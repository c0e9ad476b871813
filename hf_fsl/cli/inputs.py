"""What ``hf-fsl predict`` is given: arguments, the standard input, data files; each line and row gives one answer."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from hf_fsl.core.errors import UserError
from hf_fsl.core.images import has_picture_suffix, is_picture_file, is_url

DATA_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Given:
    """An input: what is shown of it, and the text, the pair of texts, the picture or the name of one; None: blank."""

    shown: str
    value: Any


def read_inputs(options: argparse.Namespace, image: bool) -> list[Given]:
    """All inputs in their order.

    An existing data file is its lines or rows, and ``-``, or no argument at all, the lines of the standard input.

    Args:
        options: ``inputs`` and the names of columns.
        image: whether the model takes pictures.

    Raises:
        UserError: a file that is not there or not read here, is no UTF-8, or does not say which column it is.
    """
    for name, unused in (("--text-column", image), ("--text-pair-column", image), ("--image-column", not image)):
        if unused and getattr(options, name.strip("-").replace("-", "_")) is not None:
            raise UserError(f"{name}: the model takes {'pictures' if image else 'texts'}. Leave it out.")
    return [one for argument in options.inputs or ["-"] for one in _argument(argument, options, image)]


def read_labels(given: str) -> str | list[str]:
    """Candidate labels: with commas, or one a line of a text file."""
    suffix = os.path.splitext(given)[1].lower()
    if suffix not in DATA_SUFFIXES:
        return given
    if suffix != ".txt":
        raise UserError(f"--labels: labels with commas, or a .txt file of one a line; got {given}.")
    return [line.strip() for line in _lines(_contents(given), given) if line.strip()]


def _argument(argument: str, options: argparse.Namespace, image: bool) -> Iterator[Given]:
    suffix = os.path.splitext(argument)[1].lower()
    if argument == "-":
        if sys.stdin is not None and not sys.stdin.isatty():
            yield from (_given(line, image) for line in _lines(sys.stdin.buffer.read(), "the standard input"))
    elif is_url(argument):
        yield _given(argument, image)
    elif is_picture_file(argument):
        if not image:
            raise UserError(f"{argument} is a picture, and the model takes texts. Choose a model of images.")
        yield _given(argument, image)
    elif suffix in DATA_SUFFIXES:
        rows = _lines(_contents(argument), argument) if suffix == ".txt" else _column(argument, suffix, options, image)
        yield from (_given(row, image, f"{argument}, row {number}") for number, row in enumerate(rows, 1))
    elif has_picture_suffix(argument) or (suffix and os.path.isfile(argument)):
        what = "is no kind of file that is read here" if os.path.isfile(argument) else "there is no such file"
        raise UserError(
            f"{argument}: {what}. Give pictures, or data as {', '.join(DATA_SUFFIXES)}; a text that only looks like a "
            "file's name goes through the standard input."
        )
    else:
        yield _given(argument, image)


def _given(value: Any, image: bool, where: str = "") -> Given:
    if value is None or (isinstance(value, str) and not value.strip()):
        return Given("", None)
    if isinstance(value, list) and len(value) == 2 and all(part is None or isinstance(part, str) for part in value):
        blank = not all(part and part.strip() for part in value)  # half of a pair is none
        pair = None if blank else {"text": value[0], "text_pair": value[1]}
        return Given(json.dumps(value, ensure_ascii=False), pair)
    if image and isinstance(value, dict):  # as datasets keeps pictures
        data = value.get("bytes")
        return Given(value.get("path") or where, value.get("path") if data is None else _picture(data, where))
    if not isinstance(value, str):
        kind = "picture" if image else "text"
        raise UserError(f"{where}: no {kind}, but {value!r:.60}. Name the column that holds the {kind}s.")
    return Given(value, value if image else as_pair(value))


def as_pair(text: str) -> Any:
    """A text, or what it says of a pair of texts: a JSON list of two."""
    try:
        values = json.loads(text) if text.startswith("[") else None
    except (ValueError, RecursionError):
        return text
    if isinstance(values, list) and len(values) == 2 and all(isinstance(value, str) for value in values):
        return {"text": values[0], "text_pair": values[1]}
    return text


def _column(path: str, suffix: str, options: argparse.Namespace, image: bool) -> Iterator[Any]:
    """The values of the column that holds the inputs, or pairs of values."""
    names, rows = _TABLES[suffix](path)
    asked = options.image_column if image else options.text_column
    usual, flag = ("image", "--image-column") if image else ("text", "--text-column")
    if asked is None and len(names) > 1 and usual not in names:
        raise UserError(f"{path} has the columns {', '.join(map(repr, names))}: say by {flag} which to read.")
    chosen = [asked or (usual if usual in names else names[0] if names else usual)]
    if asked is None and names and usual not in names:
        print(f"{path}: reading its only column, {names[0]!r}", file=sys.stderr)
    if options.text_pair_column is not None:
        chosen.append(options.text_pair_column)
    for name in chosen:
        if names and name not in names:
            raise UserError(f"{path} has no column {name!r}; it has {', '.join(map(repr, names))}.")
    for row in rows:
        if not isinstance(row, dict):  # a line of JSON that is no object
            yield row
        else:
            yield row.get(chosen[0]) if len(chosen) == 1 else [row.get(name) for name in chosen]


def _read_csv(path: str) -> tuple[list[str], Iterator[Any]]:
    csv.field_size_limit(2**31 - 1)  # a text may be longer than the 128 KiB that csv allows by default
    text = _text(_contents(path), path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.lower().endswith(".tsv") else ",")
    names = next(reader, [])
    if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        raise UserError(
            f"{path}: the columns of {names[0]!r} are not separated by commas. Save it with commas, or as .tsv with "
            "tabs."
        )
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two columns have one name, of {', '.join(map(repr, names))}. Rename one.")

    def rows() -> Iterator[Any]:
        try:
            for row in reader:
                if row and len(row) != len(names):
                    where = f"{path}, line {reader.line_num}"
                    raise UserError(f"{where}: {len(row)} cells, and the header has {len(names)}.")
                yield dict(zip(names, row, strict=False))
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}.") from error

    return names, rows()


def _read_jsonl(path: str) -> tuple[list[str], Iterator[Any]]:
    rows: list[Any] = []
    for number, line in enumerate(_lines(_contents(path), path), 1):
        try:
            rows.append(json.loads(line) if line.strip() else None)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: no JSON: {error}.") from error
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row)), iter(rows)


def _read_parquet(path: str) -> tuple[list[str], Iterator[Any]]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    return table.column_names, iter(table.to_pylist())


_TABLES = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _contents(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no such file. A text that only looks like a file's name goes through the standard "
            "input."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{where}, line {line}: no UTF-8 (byte 0x{data[error.start]:02x}). Convert it first, such as by "
            "iconv -f LATIN1 -t UTF-8."
        ) from None


def _lines(data: bytes, where: str) -> list[str]:
    """As ``wc -l`` and ``paste`` count them."""
    lines = _text(data, where).split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _picture(data: bytes, where: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except Exception as error:
        raise UserError(f"{where}: no picture that can be read: {error}.") from error
