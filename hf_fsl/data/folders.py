"""Local folders: which files are in them, and pictures in class folders. Nothing in them vanishes without a word."""

from __future__ import annotations

import glob
import mimetypes
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
from datasets.data_files import SPLIT_KEYWORDS
from datasets.packaged_modules.imagefolder.imagefolder import IMAGE_EXTENSIONS
from PIL import Image

from hf_fsl.config.sections import DataConfig
from hf_fsl.data.errors import DataError, listed

CSV_OPTIONS: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
"""Only an empty cell is missing: pandas would take a label "None" or a text "NA" for that, too."""
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz")
_SPLITS = {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words}
_LEFTOVERS = ("__MACOSX", "__pycache__")
_SHOWN = 3


def files_below(folder: Path) -> list[Path]:
    """Every file in a folder and in those inside it, links followed, without hidden ones; sorted."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, inside, files in os.walk(folder, followlinks=True):
        inside[:] = [name for name in inside if not name.startswith(".") and name not in _LEFTOVERS]
        if (real := os.path.realpath(place)) in seen:  # a link to a folder above leads here again
            inside.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in files if not name.startswith(".")]
    return sorted(found)


def is_picture(path: Path) -> bool:
    """By its name, or where that says nothing, by its first bytes. Pillow may still be unable to read it."""
    if _named_picture(path):
        return True
    suffix = path.suffix.lower()
    if suffix in (*TABLES, *_ARCHIVES) or _mime_type(suffix) is not None:
        return False
    try:
        with Image.open(path):
            return True
    except Exception:  # Pillow raises much else than OSError for files of other kinds
        return False


def _named_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in IMAGE_EXTENSIONS or (_mime_type(suffix) or "").startswith("image/")


def _mime_type(suffix: str) -> str | None:
    return mimetypes.guess_type(f"a{suffix}", strict=False)[0]


def read_pictures(root: Path, config: DataConfig) -> datasets.DatasetDict | None:
    """The splits of a folder of pictures; None for a folder of something else.

    A folder of class folders is one split, unless its first level is the folders train, validation and test, or some
    of them, under the names that ``datasets`` knows for them: no other part of a name matters. (A folder around all
    others is no level.) With ``data_files``
    the splits are what these match. The class is the folder that a picture lies in; or all columns come from
    ``metadata.csv`` (or .jsonl, .parquet) as ``datasets`` has it, with ``file_name`` relative to it.

    Raises:
        DataError: pictures at different depths, split folders beside others, pictures that no metadata names, or the
            other way round: whatever would leave out files in silence.
    """
    if config.data_files is None:
        files = files_below(root)
    elif any("://" in pattern for pattern in config.data_files.values()):
        return None
    else:
        matched = {split: _matching(root, pattern) for split, pattern in config.data_files.items()}
        files = [file for found in matched.values() for file in found]
    metadata = [file for file in files if file.name in METADATA]
    pictures = [file for file in files if file not in metadata and is_picture(file)]
    tables = [file for file in files if file not in metadata and file.suffix.lower() in TABLES]
    archives = [file for file in files if file.suffix.lower() in _ARCHIVES]
    if not pictures or len(tables) > len(pictures):
        return None
    if archives:
        raise DataError(
            f"data.path: {config.path} holds {len(pictures)} pictures, and archives beside them, which are not read: "
            f"{_shown(archives, root)}. Unpack or remove them."
        )
    if config.data_files is None:
        splits = _by_first_level(root, pictures, config)
    else:
        known = set(pictures)
        splits = {split: [file for file in found if file in known] for split, found in matched.items()}
    return _described(splits, metadata, config) if metadata else _in_class_folders(splits, root, config)


def check_read(files: Iterable[Path], read: dict[str, list[Path]], config: DataConfig) -> None:
    """That of a folder or a repository every picture, or every table, is read, and by one split.

    Args:
        files: all there are, relative to it.
        read: split -> those that the loader of ``datasets`` would read.

    Raises:
        DataError: some are not, for the loader takes words in names for splits, or reads files of one kind only.
    """
    counts = Counter(file for chosen in read.values() for file in chosen)
    kinds = {file.suffix.lower() for file in counts if file.name not in METADATA}
    if kinds & set(IMAGE_EXTENSIONS):
        found = {file for file in files if _named_picture(file)}
    else:  # a json file beside other tables holds settings
        read_here = [suffix for suffix in TABLES if suffix != ".json" or suffix in kinds]
        found = {file for file in files if kinds & set(TABLES) and file.suffix.lower() in read_here}
    for wrong, what in (
        (sorted(found - set(counts)), "would not be read"),
        (sorted(file for file, count in counts.items() if count > 1), "would be read as two splits"),
    ):
        if wrong:
            raise DataError(
                f"data.path: {len(wrong)} of the {len(found)} files in {config.path} {what}, since words in names "
                f"are taken for splits ({listed(list(read))}): {listed(wrong, _SHOWN)}. Say in data.data_files which "
                "files make which split; train: '**' is all of them."
            )


def _matching(root: Path, pattern: str) -> list[Path]:
    """The files that a pattern of ``data_files`` matches; hidden ones only where it names them."""
    found = glob.glob(str(Path(glob.escape(str(root))) / Path(pattern).expanduser()), recursive=True)
    return sorted(path for path in map(Path, found) if path.is_file())


def _by_first_level(root: Path, pictures: list[Path], config: DataConfig) -> dict[str, list[Path]]:
    top = Path(os.path.commonpath([file.parent for file in pictures]))
    while top != root and any(part.casefold() in _SPLITS for part in top.relative_to(root).parts):
        top = top.parent
    places = {file: file.relative_to(top).parts for file in pictures}
    first = {parts[0] if len(parts) > 1 else "" for parts in places.values()}
    named = {name: _SPLITS[name.casefold()] for name in first if name.casefold() in _SPLITS}
    if len(named) == len(first):
        splits: dict[str, list[Path]] = {split: [] for split in ("train", "validation", "test")}
        for file, parts in places.items():
            splits[named[parts[0]]].append(file)
        return {split: files for split, files in splits.items() if files}
    above = first.union(*(parts[:-2] for parts in places.values()))
    words = [word for name in above for word in re.split(r"[-._ 0-9]+", name.casefold())]
    alike = {_SPLITS[word] for word in words if word in _SPLITS}
    if len(set(named.values())) > 1 or (max(map(len, places.values())) > 2 and (named or len(alike) > 1)):
        raise DataError(
            f"data.path: the folders in {config.path} ({listed(sorted(first))}) are neither train, validation and "
            "test, nor classes. Rename or move them, or say in data.data_files which files make which split "
            "(train: 'train_set/**')."
        )
    return {"train": pictures}


def _in_class_folders(splits: dict[str, list[Path]], root: Path, config: DataConfig) -> datasets.DatasetDict:
    together = [file for files in splits.values() for file in files]
    for files in splits.values() if config.data_files is not None else [together]:
        depths = Counter(len(file.parts) for file in files)
        if len(depths) > 1:
            usual = depths.most_common(1)[0][0]
            odd = [file for file in files if len(file.parts) != usual]
            raise DataError(
                f"data.path: the folder of a picture is its class, and {len(odd)} pictures in {config.path} lie "
                f"higher or deeper than the others: {_shown(odd, root)}. Move them, or describe all in a metadata.csv."
            )
    features = datasets.Features(image=datasets.Image())
    columns = {split: {"image": [str(file) for file in files]} for split, files in splits.items()}
    if any(len({file.parent for file in files}) > 1 for files in splits.values()):
        features["label"] = datasets.ClassLabel(names=sorted({file.parent.name for file in together}))
        for split, files in splits.items():
            columns[split]["label"] = [file.parent.name for file in files]
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_dict(column, features) for split, column in columns.items()}
    )


def _described(splits: dict[str, list[Path]], metadata: list[Path], config: DataConfig) -> datasets.DatasetDict | None:
    tables = [_read_table(file) for file in metadata]
    names = {column for table in tables for column in table.column_names}
    if any(f"_{name}".endswith("_file_names") for name in names):
        return None  # several pictures an example, which no task here has
    if not any(map(_names_files, names)):
        raise DataError(f"data.path: {metadata[0]} has no column file_name, but {listed(sorted(names))}. Add it.")
    data = datasets.concatenate_datasets([_with_pictures(*one) for one in zip(tables, metadata, strict=True)])
    column = config.image_column if config.image_column in data.column_names else "image"
    paths = [raw and raw["path"] for raw in data.cast_column(column, datasets.Image(decode=False))[column][:]]
    split_of = {os.path.normpath(file): split for split, files in splits.items() for file in files}
    absent = [row for row, path in enumerate(paths) if path not in split_of]
    if absent:
        raise DataError(
            f"data.path: {len(absent)} rows of the metadata in {config.path} name no picture that is there "
            f"({listed([str(paths[row]) for row in absent], _SHOWN)}). Mend or remove them."
        )
    unnamed = sorted(set(split_of) - set(paths))
    if unnamed:
        raise DataError(
            f"data.path: {len(unnamed)} of the {len(split_of)} pictures in {config.path} are not in its metadata: "
            f"{listed(unnamed, _SHOWN)}. Describe them there, move them, or name what is read in data.data_files."
        )
    rows = {split: [row for row, path in enumerate(paths) if split_of[path] == split] for split in splits}
    return datasets.DatasetDict({split: data.select(chosen) for split, chosen in rows.items()})


def _read_table(file: Path) -> datasets.Dataset:
    path = glob.escape(str(file))
    if file.suffix == ".csv":
        return datasets.Dataset.from_csv(path, **CSV_OPTIONS)
    return (datasets.Dataset.from_json if file.suffix == ".jsonl" else datasets.Dataset.from_parquet)(path)


def _names_files(column: str) -> bool:
    return f"_{column}".endswith("_file_name")


def _with_pictures(table: datasets.Dataset, file: Path) -> datasets.Dataset:
    """``file_name`` as ``image``, ``x_file_name`` as ``x``; names lead to files below the table's folder only."""
    for name in filter(_names_files, list(table.column_names)):
        paths = []
        for value in table[name][:]:
            path = None if value is None else os.path.normpath(file.parent / str(value))
            if path is not None and not Path(path).is_relative_to(os.path.normpath(file.parent)):
                raise DataError(f"data.path: {file} names {value!r}, which is not in its folder. Move it there.")
            paths.append(path)
        column = name.removesuffix("_file_name") if name != "file_name" else "image"
        table = table.remove_columns(name).add_column(column, paths, feature=datasets.Value("string"))
        table = table.cast_column(column, datasets.Image())
    return table


def _shown(files: Iterable[Path], root: Path) -> str:
    return listed([str(file.relative_to(root)) if file.is_relative_to(root) else str(file) for file in files], _SHOWN)
