"""What is published says nothing of this machine, and shows no data that was not public already."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hf_fsl.core.errors import UserError
from hf_fsl.core.files import write_text
from hf_fsl.core.paths import machine_folders, portable, portable_values
from hf_fsl.core.records import ContrastiveRecord, DataRecord, RunRecord
from hf_fsl.core.serialization import from_plain

R = TypeVar("R", RunRecord, ContrastiveRecord)

_LABELS = ("task", "candidate_labels", "examples")
"""Parts of a record that are what others wrote, and must stay what the model's config says."""
_SOURCES = ("_name_or_path", "name_or_path", "base_model_name_or_path")
"""Keys of configs that name where something was loaded from."""
_TEXT = (".json", ".jsonl", ".md", ".yaml", ".yml", ".txt", ".py")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")


class LocalPathError(UserError, ValueError):
    """A file that would publish a path of this machine."""


def published(record: R) -> R:
    """A record as it is published: paths made portable, and examples only where they may be shown."""
    values = {
        name: value if name in _LABELS else portable_values(value)
        for name, value in dataclasses.asdict(record).items()
    }
    values["data"] |= {"path": portable(record.data.path), "public": _is_public(record.data)}
    result: R = from_plain(type(record), values)
    if isinstance(result, RunRecord):
        result.model.base_model = portable(result.model.base_model)
        result.examples = result.shown_examples
    return result


def forget_sources(folder: Path) -> None:
    """Takes the local folders that models and adapters were loaded from out of the configs in a folder."""
    for path in folder.rglob("*config.json"):
        before = json.loads(path.read_text(encoding="utf-8"))
        after = _without_sources(before)
        if after != before:
            write_text(path, json.dumps(after, indent=2) + "\n")


def require_no_local_paths(files: Mapping[str, str | bytes], folder: Path | None = None) -> None:
    """Looks through the text files that are to be pushed.

    Args:
        files: path in the repository -> a file's path, or its bytes.
        folder: where they were made.

    Raises:
        LocalPathError: one of them names a folder of this machine.
    """
    private = [*machine_folders(), *([folder.resolve()] if folder is not None else [])]
    # A working folder /app is no secret, and a card may well speak of one; a home is, wherever it is.
    named = {str(path) for path in private if len(path.parts) > 2 or path == Path.home()}
    if not named:
        return
    spelled = {form for name in named for form in (name, json.dumps(name)[1:-1])}
    pattern = re.compile("(?<![\\w.-])(?:" + "|".join(map(re.escape, sorted(spelled))) + r")(?=[/\\])[^\s'\"`)\]>]*")
    for name, content in files.items():
        if Path(name).suffix.lower() not in _TEXT or Path(name).name in _VOCABULARIES:
            continue
        raw = content if isinstance(content, bytes) else Path(content).read_bytes()
        if found := pattern.search(raw.decode(errors="replace")):
            raise LocalPathError(
                f"{name} holds {found[0]}, a path of this machine, which a published file must not. Take it out of "
                "the card or of the config that it comes from."
            )


def is_local(name: str) -> bool:
    """Whether a model's or data set's name leads to a file or folder of this machine."""
    try:
        return name.startswith((".", "~")) or Path(name).is_absolute() or Path(name).exists()
    except OSError:
        return False


def _is_public(data: DataRecord) -> bool:
    """Whether anybody may read a data set on the Hub; False where that cannot be found out."""
    if data.public is not None or data.revision is None:  # files of this machine have no revision
        return bool(data.public)
    try:
        info = HfApi().dataset_info(data.path, timeout=10)
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    return info.private is False and not info.gated


def _without_sources(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_sources(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _without_sources(item)
        for name, item in value.items()
        if not (name in _SOURCES and isinstance(item, str) and is_local(item))
    }
