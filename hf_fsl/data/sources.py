"""Where examples come from: a Hub data set, a folder in Hub layout, files, a folder of images."""

from __future__ import annotations

import contextlib
import glob
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError, DatasetsError
from datasets.packaged_modules.cache.cache import Cache
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from hf_fsl.config.sections import DataConfig
from hf_fsl.data.cards import card_license, default_configuration, has_configurations, hub_card, local_card
from hf_fsl.data.errors import DataError, listed
from hf_fsl.data.folders import CSV_OPTIONS, check_read, files_below, read_pictures

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_SEPARATORS = (";", "\t", "|", ",")
_UNREADABLE = (OSError, ValueError, RuntimeError, TypeError, DatasetsError)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class Source:
    """What was read, and what its source says about it; ``None`` is unknown."""

    splits: datasets.DatasetDict
    name: str | None
    revision: str | None
    license: str | None


def read_source(config: DataConfig) -> Source:
    """Every split of the data set, as its source has it.

    Raises:
        DataError: the data set, its configuration, its revision or its files are not there, or cannot be read.
    """
    path = Path(config.path).expanduser()
    if path.is_dir():
        return _read_folder(path, config)
    if path.is_file() or config.path in {*BUILDERS.values(), "imagefolder"}:
        _check_files(config, Path())
        pictures = _pictures(Path(), config) if config.path == "imagefolder" and config.data_files else None
        return Source(pictures or _read(_file_builder(path, config), config), None, None, None)
    if path.suffix in BUILDERS or path.is_absolute() or config.path.startswith(".") or config.path.count("/") > 1:
        raise DataError(f"data.path: there is no file or folder {config.path}{_beside(path)}.")
    builder = _hub_builder(config)
    revision = builder.hash if builder.hash and _COMMIT.fullmatch(builder.hash) else None
    described = config.data_files is not None or has_configurations(hub_card(config.path, revision))
    if isinstance(builder, ImageFolder) and revision is not None and not described:
        files = huggingface_hub.list_repo_files(config.path, revision=revision, repo_type="dataset")
        read = {
            split: [Path(file.partition(f"@{revision}/")[2]) for file in files]
            for split, files in (builder.config.data_files or {}).items()
        }
        check_read([Path(file) for file in files if not file.startswith(".")], read, config)
    splits = _read(builder, config)
    return Source(splits, _name(builder, config), revision, card_license(hub_card(config.path, revision)))


def is_lone_file(config: DataConfig) -> bool:
    """Whether the data are one local file, which is whatever split it is asked for."""
    return not config.data_files and Path(config.path).expanduser().is_file()


def _read_folder(path: Path, config: DataConfig) -> Source:
    _check_files(config, path)
    card = local_card(path)
    described = config.name is not None or has_configurations(card)
    pictures = _pictures(path, config) if config.image_column is not None and not described else None
    if pictures is not None:
        return Source(pictures, None, None, card_license(card))
    builder = _builder(str(path), config, config.name)
    read = builder.config.data_files or {}
    if not described and config.data_files is None:
        top = path.resolve()
        found = [file.relative_to(path) for file in files_below(path)]
        check_read(
            found, {split: [Path(file).relative_to(top) for file in files] for split, files in read.items()}, config
        )
    if isinstance(builder, Csv):
        files = [Path(file) for files in read.values() for file in files]
        builder = _builder(str(path), config, config.name, **_csv_options(files, config))
    return Source(_read(builder, config), _name(builder, config), None, card_license(card))


def _pictures(root: Path, config: DataConfig) -> datasets.DatasetDict | None:
    try:
        return read_pictures(root, config)
    except DataError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(config, error) from error


def _file_builder(path: Path, config: DataConfig) -> datasets.DatasetBuilder:
    if config.name is not None:
        raise DataError(f"data.name: {config.path} has no configurations, got {config.name!r}. Leave it out.")
    files = dict(config.data_files or {})
    kind = config.path
    if path.is_file():
        if path.suffix.lower() not in BUILDERS:
            raise DataError(
                f"data.path: {path.suffix or 'a file without a suffix'} is no kind of file that is read here; "
                f"use {', '.join(BUILDERS)}, a folder of images, or a Hub data set."
            )
        if config.train_split in files:
            raise DataError(
                f"data.data_files: {config.path} is the split {config.train_split!r} already, and data_files gives "
                f"{files[config.train_split]!r} for it. Leave one out."
            )
        kind = BUILDERS[path.suffix.lower()]
        files = {config.train_split: glob.escape(str(path)), **files}
    elif not files:
        raise DataError(f"data.data_files: {kind} needs them, split -> file or glob.")
    options: dict[str, Any] = {}
    if kind == "csv":
        local = [
            file for pattern in files.values() for file in glob.glob(str(Path(pattern).expanduser()), recursive=True)
        ]
        options = _csv_options([Path(file) for file in local or files.values()], config)
    return _builder(kind, config, None, data_files=files, **options)


def _csv_options(files: list[Path], config: DataConfig) -> dict[str, Any]:
    """How csv and tsv files are read: by commas or tabs, whichever the names say, and only an empty cell is missing.

    Raises:
        DataError: files of both kinds, or one whose first line has another separator.
    """
    tabs = {".tsv" in [suffix.lower() for suffix in file.suffixes] for file in files}
    if len(tabs) > 1:
        raise DataError(f"data.path: {config.path} has both csv and tsv files, {listed(files, 4)}. Write one kind.")
    separator = "\t" if True in tabs else ","
    for file in files:
        if not file.is_file() or file.suffix.lower() not in (".csv", ".tsv"):  # a compressed one has no first line yet
            continue
        with file.open(encoding="utf-8-sig", errors="replace") as opened:
            header = opened.readline()
        other = next((one for one in _SEPARATORS if one in header and separator not in header), None)
        if other is not None:
            raise DataError(
                f"data.path: the first line of {file} is {header.strip()[:80]!r}: columns separated by {other!r}, "
                f"and a {file.suffix} file is read with {separator!r} between them. Save it so"
                + (", or call it .tsv." if other == "\t" else ".")
            )
    return CSV_OPTIONS | {"sep": separator}


def _hub_builder(config: DataConfig) -> datasets.DatasetBuilder:
    try:
        builder = _hub_builder_with(config)
    except DataError:
        # a csv data set lies in the cache under the options that it was read with
        with contextlib.suppress(DataError):
            return _hub_builder_with(config, **CSV_OPTIONS)
        raise
    if isinstance(builder, Csv):
        return _hub_builder_with(config, **CSV_OPTIONS)
    if isinstance(builder, Cache):
        with contextlib.suppress(DataError):
            return _hub_builder_with(config, **CSV_OPTIONS)
    return builder


def _hub_builder_with(config: DataConfig, **options: Any) -> datasets.DatasetBuilder:
    name = config.name
    if name is None and datasets.config.HF_HUB_OFFLINE:
        name = default_configuration(config)
    builder = _builder(config.path, config, name, revision=config.revision, **options)
    if not isinstance(builder, Cache):
        return builder
    if name is None:  # the Hub did not answer
        builder = _builder(config.path, config, default_configuration(config), revision=config.revision, **options)
    if config.revision is not None and not _is_revision(config, builder.hash or ""):
        raise DataError(
            f"data.revision: the Hub cannot be reached, and the newest copy of {config.path} in the cache is of "
            f"commit {builder.hash}, not of {config.revision!r}. Go online, or set data.revision to that commit."
        )
    return builder


def _is_revision(config: DataConfig, commit: str) -> bool:
    revision = config.revision or "main"
    if _COMMIT.fullmatch(revision) and commit.startswith(revision):
        return True
    known = huggingface_hub.try_to_load_from_cache(config.path, "README.md", revision=revision, repo_type="dataset")
    return isinstance(known, str) and Path(known).parent.name == commit


def _builder(kind: str, config: DataConfig, name: str | None, **options: Any) -> datasets.DatasetBuilder:
    """The builder of one configuration; nothing of the data is read yet."""
    options = {"data_files": config.data_files} | options
    try:
        return datasets.load_dataset_builder(kind, name, **options)
    except DatasetNotFoundError as error:
        raise DataError(
            f"data.path: there is no data set {config.path!r} at revision {config.revision or 'main'} "
            f"({huggingface_hub.constants.ENDPOINT}), nor a local file or folder of that name. {error}"
        ) from error
    except ConnectionError as error:
        raise DataError(
            f"data.path: {config.path!r} is no local file or folder, the Hub ({huggingface_hub.constants.ENDPOINT}) "
            f"cannot be reached, and no copy is in the cache: {error}."
        ) from error
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        names = _configurations(kind, config)
        if name is None and len(names) > 1:
            raise DataError(f"data.name: {config.path} has the configurations {listed(names)}; name one.") from error
        if name is not None and names and name not in names:
            raise DataError(
                f"data.name: {config.path} has no configuration {name!r}; it has {listed(names)}. Name one of these."
            ) from error
        raise _unreadable(config, error) from error


def _read(builder: datasets.DatasetBuilder, config: DataConfig) -> datasets.DatasetDict:
    try:
        builder.download_and_prepare()
        return builder.as_dataset()
    except _UNREADABLE as error:
        raise _unreadable(config, error) from error


def _configurations(kind: str, config: DataConfig) -> list[str]:
    """Those that the source has; none where it cannot be asked."""
    if Path(kind).is_dir() or not datasets.config.HF_HUB_OFFLINE:
        try:
            return list(datasets.get_dataset_config_names(kind, revision=config.revision))
        except Exception:  # the source itself is what is wrong, and the caller says so
            return []
    return []


def _unreadable(config: DataConfig, error: Exception) -> DataError:
    cause = error.__cause__ if type(error) is DatasetGenerationError and error.__cause__ else error
    reason = str(cause).split(" with any supported extension")[0].strip().rstrip(".")
    return DataError(f"data.path: {config.path} cannot be read: {reason or type(cause).__name__}.")


def _check_files(config: DataConfig, base: Path) -> None:
    for split, pattern in (config.data_files or {}).items():
        if "://" not in pattern and not glob.glob(str(base / Path(pattern).expanduser()), recursive=True):
            there = _beside(base / pattern)
            raise DataError(f"data.data_files.{split}: nothing matches {pattern!r} in {base.resolve()}{there}.")


def _beside(path: Path) -> str:
    """What is in the folder where a file was looked for."""
    folder = path.expanduser().parent
    try:
        found = sorted(one.name for one in folder.iterdir() if not one.name.startswith("."))
    except OSError:
        return f"; there is no folder {folder} either"
    return f"; {folder} holds {listed(found)}" if found else f"; {folder} is empty"


def _name(builder: datasets.DatasetBuilder, config: DataConfig) -> str | None:
    """The configuration that was read; nothing where the source has no names for them."""
    return config.name or (builder.config.name if builder.config.name != "default" else None)
