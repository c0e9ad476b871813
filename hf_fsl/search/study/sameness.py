"""Whether what is kept is about the same thing as what is asked for, and in which words it is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_fsl.search.errors import SearchError


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
    """Name of each part that differs -> both values, of mappings only what differs in them."""
    there, here = json.loads(json.dumps(there)), json.loads(json.dumps(here))
    return {
        name: _difference(there.get(name), here.get(name))
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    }


def as_lines(found: Mapping[str, str]) -> str:
    """Differences, one a line, to follow a colon."""
    return "".join(f"\n  - {name}: {words}" for name, words in found.items())


def require_same(what: str, folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises SearchError where what a folder holds was made of something else; the message names each part."""
    found = differences(there, here)
    if found:
        raise SearchError(
            f"{what} in {folder} differs in {', '.join(sorted(found))}:{as_lines(found)}\n"
            "Take another folder (output_dir), or empty it."
        )


def _difference(there: Any, here: Any) -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        return "; ".join(f"{name} {words}" for name, words in differences(there, here).items())
    return f"{_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}…"
