"""Where examples come from: a Hub data set, a folder in Hub layout, files, a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
from datasets.exceptions import DatasetNotFoundError

from hf_fsl.config import DataConfig
from hf_fsl.data.errors import DataError

BUILDERS = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip


def read_splits(config: DataConfig) -> datasets.DatasetDict:
    """Every split of the data set, as its source has it.

    Raises:
        DataError: the data set, its configuration or its files are not there.
    """
    path = Path(config.path).expanduser()
    options: dict[str, Any] = {}
    if config.data_files is not None:
        options["data_files"] = dict(config.data_files)
    if path.is_file():
        kind = _builder(path.suffix)
        options["data_files"] = {config.train_split: str(path), **(config.data_files or {})}
        return _load(kind, config, options | _separator(path.suffix))
    if path.is_dir():
        options["name"] = _config_name(str(path), config)
        return _load(str(path), config, options)
    if config.path in set(BUILDERS.values()) | {"imagefolder"}:
        return _load(config.path, config, options)
    if path.suffix in BUILDERS or config.path.startswith((".", "/", "~")):
        raise DataError(f"data.path: there is no file or folder {config.path}.")
    options |= {"name": _config_name(config.path, config), "revision": config.revision}
    return _load(config.path, config, options)


def source_facts(config: DataConfig) -> tuple[str | None, str | None]:
    """Commit and licence of the data set, as far as its source says them."""
    path = Path(config.path).expanduser()
    if path.is_dir():
        return config.revision, _card_license(path / "README.md")
    if path.is_file() or config.path.count("/") > 1:
        return config.revision, None
    try:
        info = huggingface_hub.HfApi().dataset_info(config.path, revision=config.revision)
    except Exception:  # offline, or a source without a Hub: unknown, and the record says so
        return config.revision, None
    license_name = info.card_data.get("license") if info.card_data else None
    return info.sha, _one(license_name)


def _load(kind: str, config: DataConfig, options: dict[str, Any]) -> datasets.DatasetDict:
    try:
        found = datasets.load_dataset(kind, **options)
    except DatasetNotFoundError as error:
        raise DataError(
            f"data.path: there is no data set {config.path!r} at revision {config.revision or 'main'} "
            f"({huggingface_hub.constants.ENDPOINT}), nor a local file or folder of that name. {error}"
        ) from error
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        cause = error.__cause__ or error
        raise DataError(f"data.path: {config.path} cannot be read: {cause}") from error
    if isinstance(found, datasets.Dataset):
        return datasets.DatasetDict({config.train_split: found})
    return found


def _config_name(path: str, config: DataConfig) -> str | None:
    """The configuration to load. Named even if it is the default: offline, ``datasets`` would take any cached one."""
    try:
        names = datasets.get_dataset_config_names(path, revision=config.revision)
        default = datasets.get_dataset_default_config_name(path, revision=config.revision)
    except Exception:  # what is wrong with the source is said when it is read
        return config.name
    if config.name is None:
        if default is None and len(names) > 1:
            raise DataError(f"data.name: {config.path} has the configurations {', '.join(names)}; name one.")
        return default or (names[0] if names else None)
    if config.name not in names:
        raise DataError(f"data.name: {config.path} has no configuration {config.name!r}; it has {', '.join(names)}.")
    return config.name


def _builder(suffix: str) -> str:
    if suffix not in BUILDERS:
        raise DataError(
            f"data.path: {suffix or 'a file without a suffix'} is no kind of file that is read here; "
            f"use {', '.join(BUILDERS)}, a folder of images, or a Hub data set."
        )
    return BUILDERS[suffix]


def _separator(suffix: str) -> dict[str, Any]:
    return {"sep": "\t"} if suffix == ".tsv" else {}


def _card_license(card: Path) -> str | None:
    if not card.is_file():
        return None
    try:
        return _one(huggingface_hub.DatasetCard.load(card).data.get("license"))
    except ValueError:
        return None


def _one(license_name: Any) -> str | None:
    if isinstance(license_name, list):
        return ", ".join(map(str, license_name)) or None
    return str(license_name) if license_name else None
