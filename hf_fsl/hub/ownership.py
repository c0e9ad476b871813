"""What of a repository is ours: the files that earlier pushes put there, and the card as far as nobody edited it.

Every push leaves ``.hf_fsl/`` behind: the names of the files that it wrote, and the card as it wrote it. The next push
deletes and replaces only those; what others put beside them stays, and so do their edits of the card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import yaml
from huggingface_hub import HfApi, get_session, hf_raise_for_status
from huggingface_hub.utils._headers import build_hf_headers

CARD = "README.md"
_LIST, _WRITTEN = ".hf_fsl/pushed.json", ".hf_fsl/README.md"
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\s*\n?", re.DOTALL)
_OURS = "Made with [hf_fsl]("
"""In every card that is rendered; what was pushed before there was a list is known by it."""


@dataclass(frozen=True)
class Plan:
    """What a push makes of a repository.

    Args:
        files: path in the repository -> a file's path, or its bytes.
        owned: what earlier pushes wrote, and this one may delete.
        note: what became of a card that was not as the last push left it.
    """

    files: dict[str, str | bytes]
    owned: frozenset[str]
    note: str = ""


def plan(api: HfApi, repo: str, revision: str, there: Sequence[str], files: Mapping[str, str | bytes]) -> Plan:
    """The files of a push, with the card as it is to be.

    Args:
        there: the files that the repository has at this revision.
    """
    owned = _owned(_text(api, repo, revision, _LIST)) if _LIST in there else frozenset()
    card = _content(files[CARD])
    names = sorted({*files, _LIST, _WRITTEN})
    ours = {_LIST: (json.dumps({"files": names}, indent=2) + "\n").encode(), _WRITTEN: card.encode()}
    theirs = _text(api, repo, revision, CARD) if CARD in there else ""
    before = _text(api, repo, revision, _WRITTEN) if _WRITTEN in there else None
    merged, note = merged_card(theirs, card, before)
    return Plan(dict(files) | ours | {CARD: merged.encode(errors="surrogateescape")}, owned, note)


def merged_card(theirs: str, ours: str, before: str | None) -> tuple[str, str]:
    """A card with the edits that somebody made to the last one, and what became of them in words.

    Where both changed the same passage, the new card stands: it speaks of the new weights.

    Args:
        theirs: as it is in the repository; empty where there is none.
        ours: the new one.
        before: as the last push left it; None where that is not known.
    """
    if not theirs or theirs in (before, ours):
        return ours, ""
    if before is None and _OURS in theirs:
        return ours, f"{CARD} was written by an earlier hf_fsl and is replaced; the history of the repository has it."
    data, text = _split(ours)
    their_data, their_text = _split(theirs)
    old_data, old_text = _split(before or "")
    both = 0
    if before is None:
        text = f"{their_text.rstrip()}\n\n{text}" if their_text.strip() else text
    else:
        text, both = _merged_text(their_text, text, old_text)
    merged = merged_values(their_data, data, old_data)
    front = yaml.safe_dump(merged, sort_keys=False, allow_unicode=True)
    anew = f" but for {both} passages that the new card writes anew; the history has them" if both else ""
    note = f"{CARD} had been edited there; the edits are kept{anew}."
    same = (merged, text) == (their_data, their_text)
    return (theirs, note if both else "") if same else (f"---\n{front}---\n{text}", note)


def merged_values(theirs: Any, ours: Any, before: Any) -> Any:
    """Nested values with what others changed in them; None where they, or we, took a value out."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        old = before if isinstance(before, dict) else {}
        values = {
            key: merged_values(theirs.get(key), ours.get(key), old.get(key)) for key in dict.fromkeys([*ours, *theirs])
        }
        return {key: value for key, value in values.items() if value is not None}
    if isinstance(theirs, list) and isinstance(ours, list):
        known = before if isinstance(before, list) else []
        kept = [item for item in ours if item in theirs or item not in known]
        return kept + [item for item in theirs if item not in known and item not in kept]
    return ours if theirs == before else theirs


def _merged_text(theirs: str, ours: str, before: str) -> tuple[str, int]:
    """Three-way merge by lines. Returns the text, and how many passages both changed: there ours stands."""
    a, b, base = ours.splitlines(True), theirs.splitlines(True), before.splitlines(True)
    merged: list[str] = []
    both = at_base = at_a = at_b = 0
    for start, end, a_start, b_start in _common(a, b, base):
        old, new, edited = base[at_base:start], a[at_a:a_start], b[at_b:b_start]
        both += edited not in (old, new) and new != old
        merged += edited if new == old else new
        merged += base[start:end]
        at_base, at_a, at_b = end, a_start + end - start, b_start + end - start
    return "".join(merged), both


def _common(a: list[str], b: list[str], base: list[str]) -> list[tuple[int, int, int, int]]:
    """Runs of lines of ``base`` (from, to) that are in both others, with where they begin there; then the end."""
    in_a, in_b = (SequenceMatcher(None, base, other, autojunk=False).get_matching_blocks() for other in (a, b))
    runs: list[tuple[int, int, int, int]] = []
    i = j = 0
    while i < len(in_a) and j < len(in_b):
        one, two = in_a[i], in_b[j]
        start, end = max(one.a, two.a), min(one.a + one.size, two.a + two.size)
        if start < end:
            runs.append((start, end, one.b + start - one.a, two.b + start - two.a))
        if one.a + one.size < two.a + two.size:
            i += 1
        else:
            j += 1
    return [*runs, (len(base), len(base), len(a), len(b))]


def _split(card: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card; what is no metadata is text."""
    found = _FRONT_MATTER.match(card)
    if found is None:
        return {}, card
    try:
        values = yaml.safe_load(found[1])
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}, card
    return (values, card[found.end() :]) if isinstance(values, dict) else ({}, card)


def _owned(text: str) -> frozenset[str]:
    """The names in the list of a push; none where it cannot be read, as then nobody knows whose files those are."""
    try:
        names = json.loads(text)["files"]
        return frozenset(name for name in names if isinstance(name, str))
    except (ValueError, TypeError, LookupError, RecursionError):
        return frozenset()


def _content(content: str | bytes) -> str:
    if isinstance(content, str):
        with open(content, "rb") as file:
            content = file.read()
    return content.decode(errors="surrogateescape")


def _text(api: HfApi, repo: str, revision: str, name: str) -> str:
    """A text file of the repository. Not through the cache of downloads, which is for models."""
    headers = build_hf_headers(token=api.token)
    answer = get_session().get(f"{api.endpoint}/{repo}/resolve/{revision}/{name}", headers=headers)
    hf_raise_for_status(answer)
    text: str = answer.content.decode(errors="surrogateescape")
    return text
