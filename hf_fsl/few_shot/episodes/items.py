"""The examples that episodes are drawn from: by class, and within a class by what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hf_fsl.core.errors import UserError


class EpisodeError(UserError, ValueError):
    """Episodes that cannot be drawn from these examples, or do not fit them."""


@dataclass(frozen=True)
class Columns:
    """A data set's columns, checked: labels ``(N,)``, what each example shows, and whether it may be what."""

    labels: np.ndarray
    items: np.ndarray
    support: np.ndarray
    query: np.ndarray

    @classmethod
    def read(cls, labels: Any, ids: Any, support_from: Any, query_from: Any) -> Columns:
        values = _array(labels)
        if values.ndim != 1 or not len(values) or not np.issubdtype(values.dtype, np.integer):
            raise EpisodeError(
                f"labels are one class index an example, at least one; got {values.shape}, {values.dtype}."
            )
        masks = []
        for name, given in (("ids", ids), ("support_from", support_from), ("query_from", query_from)):
            if given is not None and len(given) != len(values):
                raise EpisodeError(f"{name} has one entry an example: {len(values)}, not {len(given)}.")
            if name != "ids":
                mask = np.ones(len(values), dtype=bool) if given is None else _array(given)
                if mask.dtype != bool:
                    raise EpisodeError(f"{name} holds booleans, one an example; got {mask.dtype}.")
                masks.append(mask)
        items = np.arange(len(values)) if ids is None else item_codes(ids, values)
        return cls(values.astype(np.int64), items, *masks)


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        return values.cpu().numpy()
    return values if isinstance(values, np.ndarray) else np.asarray(list(values))


def item_codes(ids: Any, labels: np.ndarray) -> np.ndarray:
    """A number for every different id.

    Raises:
        EpisodeError: an id under two labels: a query could be among the supports of another class.
    """
    known: dict[Any, int] = {}
    listed = ids.tolist() if isinstance(ids, (Tensor, np.ndarray)) else list(ids)
    codes = np.asarray([known.setdefault(one, len(known)) for one in listed])
    first = np.unique(codes, return_index=True)[1]
    other = np.flatnonzero(labels != labels[first[codes]]).tolist()
    if other:
        here, there = other[0], first[codes[other[0]]]
        raise EpisodeError(
            f"An id has one label; {listed[here]!r} is {labels[there]} in example {there} and {labels[here]} in "
            f"example {here} ({len(other)} such examples). Leave one of them out."
        )
    return codes


@dataclass(frozen=True)
class ItemsByClass:
    """The things of each class in one pool, and the examples of each thing."""

    start: np.ndarray
    size: np.ndarray
    """``(classes,)``: where a class begins in ``items``, and how many it has."""
    items: np.ndarray
    first: np.ndarray
    copies: np.ndarray
    """``(things,)``: the thing's number, where its examples begin in ``order``, and how many."""
    order: np.ndarray

    @classmethod
    def build(cls, columns: Columns, allowed: np.ndarray, chosen: list[int]) -> ItemsByClass:
        row = np.full(columns.labels.max() + 1, -1)
        row[chosen] = np.arange(len(chosen))
        rows = np.where(allowed & (columns.labels >= 0), row[columns.labels], -1)
        order = np.flatnonzero(rows >= 0)
        order = order[np.lexsort((columns.items[order], rows[order]))]
        items = columns.items[order]
        first = np.flatnonzero(np.r_[True, items[1:] != items[:-1]]) if len(items) else np.arange(0)
        size = np.bincount(rows[order[first]], minlength=len(chosen))
        copies = np.diff(np.r_[first, len(items)])
        return cls(size.cumsum() - size, size, items[first], first, copies, order)

    def examples(self, positions: np.ndarray, rows: np.ndarray, uniform: np.ndarray | None) -> np.ndarray:
        """Positions ``(rows, k)`` in the class of each row -> examples; one of a thing's several is drawn."""
        things = self.things(positions, rows)
        if uniform is None:
            return self.order[things]
        return self.order[self.first[things] + (uniform * self.copies[things]).astype(np.int64)]

    def things(self, positions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.minimum(self.start[rows][:, None] + positions, len(self.items) - 1)

    def shared_with(self, other: ItemsByClass) -> np.ndarray:
        """How many things of each class ``(classes,)`` are in both pools."""
        row = np.arange(len(self.size)).repeat(self.size)
        return np.bincount(row[np.isin(self.items, other.items)], minlength=len(self.size))


def without_items(
    query: np.ndarray, support: np.ndarray, queries: ItemsByClass, supports: ItemsByClass, rows: np.ndarray
) -> np.ndarray:
    """Query positions ``(rows, n)`` with the things that are supports, and what lies beyond the class, put last."""
    own = queries.items[queries.things(query, rows)]
    taken = supports.items[supports.things(support, rows)]
    out = query >= queries.size[rows][:, None]
    for column in taken.T:
        out |= own == column[:, None]
    return np.take_along_axis(query, out.argsort(axis=1, kind="stable"), axis=1)


def chosen_classes(labels: np.ndarray, classes: Sequence[Any] | None, names: Sequence[str] | None) -> list[int]:
    """The labels to draw from.

    Raises:
        EpisodeError: a class that is unknown, absent or given twice.
    """
    present = [label for label in np.unique(labels).tolist() if label >= 0]
    if classes is None:
        return present
    chosen: list[int] = []
    for one in classes:
        if isinstance(one, str):
            if names is None or one not in names:
                known = "there are no label_names" if names is None else f"the labels are {', '.join(names)}"
                raise EpisodeError(f"classes: {one!r} is no label name; {known}.")
            one = list(names).index(one)
        chosen.append(int(one))
    absent = sorted(set(chosen) - set(present))
    if absent or len(set(chosen)) < len(chosen):
        problem = f"no example has {absent}" if absent else f"{len(chosen) - len(set(chosen))} are given twice"
        raise EpisodeError(f"classes are labels that occur, each once; {problem}.")
    return chosen
