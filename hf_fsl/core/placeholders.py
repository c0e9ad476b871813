"""Places in templates: ``{}`` or ``{name}``, and no more of Python's format language than that.

A format specification comes to gigabytes by a few characters (``{:>1999999999}``), an attribute reads what it should
not. Literal braces are doubled, as everywhere in Python: ``{{``.
"""

from __future__ import annotations

import string
from typing import Any


def plain_places(template: Any) -> list[str] | None:
    """The names in the places of a template, ``""`` for ``{}``; None where it is no text, or one is not plain."""
    if not isinstance(template, str):
        return None
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return None
    places = [part[1:] for part in parts if part[1] is not None]
    if any(specification or conversion or not _is_plain(name) for name, specification, conversion in places):
        return None
    return [str(name) for name, _, _ in places]


def has_one_place(template: Any) -> bool:
    """Whether a template has exactly one ``{}``, and no other place."""
    return plain_places(template) == [""]


def _is_plain(name: str | None) -> bool:
    return not set(name or "") & set(".[]{}")
