"""The front matter of a README.md: what the Hub's search and ``pipeline()`` go by."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from hf_fsl.hub.local.repo import Commit, Repo

_FRONT_MATTER = re.compile(r"\A\s*---[\r\n]+(.*?)[\r\n]+---(?:\r\n|\n|$)", re.DOTALL)
_LONGEST_README = 1 << 20
_MOST_VALUES = 100_000


def readme(repo: Repo, commit: Commit) -> str:
    """The text of README.md, at most a megabyte of it; empty where there is none."""
    entry = commit.files.get("README.md")
    if entry is None:
        return ""
    with repo.storage.blob(entry.sha256).open("rb") as file:
        return file.read(_LONGEST_README).decode(errors="replace")


def front_matter(text: str) -> dict[str, Any]:
    """The metadata of a card, as JSON values. Raises ValueError with what is wrong with it."""
    found = _FRONT_MATTER.match(text)
    if found is None:
        return {}
    try:
        values = yaml.safe_load(found[1])
        if not isinstance(values, (dict, type(None))):
            raise ValueError(f"The metadata is a mapping, not {type(values).__name__}.")
        plain: dict[str, Any] = _plain(values or {}, [_MOST_VALUES])
        return plain
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"The metadata is not YAML that can be read: {error}") from error


def card_data(repo: Repo, commit: Commit) -> dict[str, Any]:
    """The metadata of a commit's card; empty where it has none that can be read."""
    try:
        return front_matter(readme(repo, commit))
    except ValueError:
        return {}


def tags(card: dict[str, Any]) -> list[str]:
    """What a repository can be filtered by: the card's tags, and those the Hub makes of its other fields."""
    found = _strings(card.get("tags")) + _strings(card.get("library_name")) + _strings(card.get("pipeline_tag"))
    found += _strings(card.get("language"))
    for field, prefix in (
        ("license", "license"),
        ("datasets", "dataset"),
        ("base_model", "base_model"),
        ("task_categories", "task_categories"),
        ("size_categories", "size_categories"),
    ):
        found += [f"{prefix}:{value}" for value in _strings(card.get(field))]
    return list(dict.fromkeys(found))


def _strings(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list) else [value]) if item not in (None, "")]


def _plain(value: Any, left: list[int]) -> Any:
    """JSON values, counted: YAML's aliases let a few lines stand for more than memory holds."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"The metadata has more than {_MOST_VALUES:,} values.")
    if isinstance(value, dict):
        return {str(key): _plain(item, left) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, left) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (int, float, type(None))):
        return value
    return str(value).encode(errors="replace").decode()  # YAML can hold halves of surrogate pairs, UTF-8 cannot
