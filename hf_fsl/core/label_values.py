"""What is a label, what is a missing one: the one rule for data sets, classifiers and commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas


def is_missing(value: Any) -> bool:
    """An empty text, None, NaN, NaT or pandas.NA. The words NA, None and null are labels, and so is −1.

    (In a ``ClassLabel`` column ``datasets`` writes −1 for "no label"; who reads such a column knows.)
    """
    if isinstance(value, str):
        return not value.strip()
    return not isinstance(value, int) and bool(pandas.api.types.is_scalar(value) and pandas.isna(value))


def is_label(value: Any) -> bool:
    """What scikit-learn takes for a class: a text, a whole number, a boolean.

    No date, Decimal, bytes or plain Enum: they would come back from a published model as something else. Half of a
    surrogate pair is no text that a file can hold.
    """
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, (float, np.floating)):
        return float(value).is_integer()
    return isinstance(value, (int, np.integer, np.bool_))


def plain_label(value: Any) -> str | int | float | bool:
    """A label as Python's own text or number: what JSON and numpy make of it is then the same."""
    if isinstance(value, str):
        return str.__str__(value)
    plain: int | float | bool = value.item() if isinstance(value, np.generic) else value
    return plain if isinstance(plain, (bool, float)) else int(plain)


def contradictions(keys: Sequence[str], labels: Sequence[Any]) -> list[tuple[int, int]]:
    """Equal examples under different labels: the first of each, and the first that differs from it.

    Args:
        keys: one an example, equal for equal contents.
    """
    first: dict[str, int] = {}
    found: dict[str, tuple[int, int]] = {}
    for row, key in enumerate(keys):
        before = first.setdefault(key, row)
        if labels[before] != labels[row]:
            found.setdefault(key, (before, row))
    return list(found.values())
