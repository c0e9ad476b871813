"""What a study is about. A worker that would search something else is refused."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from hf_fsl import __version__
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


_KEY = "hf_fsl"
PATIENCE = 10.0
"""Seconds between making a study and noting what it is about, at the most."""


class StudyMismatch(SearchError):
    """A study that was opened with another space, data set, backbone or version."""


def identity(**parts: Any) -> dict[str, Any]:
    """What workers of one study have in common: what is given, and the version of hf_fsl.

    Args:
        parts: name, as it stands in an error -> plain values.
    """
    return {"hf_fsl version": __version__, **json.loads(json.dumps(parts, sort_keys=True))}


def fingerprint(*rows: Any) -> str:
    """16 hexadecimal digits that stand for data, such as the examples drawn."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row if isinstance(row, bytes) else json.dumps(row, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def claim(study: optuna.Study, mine: Mapping[str, Any], made_it: bool = True) -> None:
    """Notes in a new study what it is about, or compares with what is noted.

    Only the worker that made the study notes it: two that did at once could both read their own, and go on together.
    The others wait for the note; where there is none after a while, its maker died before, and they take its place.

    Raises:
        StudyMismatch: it is about something else; the message names each part that differs.
    """
    end = time.monotonic() + (0.0 if made_it else PATIENCE)
    while _KEY not in study.user_attrs:
        if study.get_trials(deepcopy=False) and _KEY not in study.user_attrs:
            raise StudyMismatch(
                f"The study {study.study_name!r} was not made by hf_fsl. Give search.name another name."
            )
        if time.monotonic() >= end:
            study.set_user_attr(_KEY, dict(mine))
        else:
            time.sleep(0.1)
    noted = study.user_attrs[_KEY]
    differing = differences(noted, mine)
    if differing:
        raise StudyMismatch(
            f"The study {study.study_name!r} is about something else than this worker:{as_lines(differing)}\n"
            "Join it with the same configuration, data and version, or give search.name another name."
        )


def about(study: optuna.Study) -> dict[str, Any] | None:
    """What a study was made for; None for one that others made."""
    found: dict[str, Any] | None = study.user_attrs.get(_KEY)
    return found
