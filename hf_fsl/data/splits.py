"""Stratified splits and subsets, the same for the same seed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import numpy as np

from hf_fsl.data.errors import DataError, listed


def set_aside(labels: Sequence[Any], keys: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows of a stratified split: (those that stay, those set aside), both ascending.

    Copies of an example go to the side of the first of them, so that a split made here never overlaps. A class with
    two different examples or more keeps at least one on each side; a class with one keeps it in training. Multi-label
    data is split at random: there is no class to stratify by.

    Args:
        labels: one a row; lists for multi-label data.
        keys: one a row, equal for copies of an example.
        fraction: share of the different examples to set aside.
    """
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    generator = np.random.default_rng(seed)
    chosen: set[str] = set()
    for rows in _by_class(labels, first.values()).values():
        count = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
        chosen.update(keys[row] for row in generator.permutation(rows)[:count].tolist())
    aside = [row for row, key in enumerate(keys) if key in chosen]
    return [row for row, key in enumerate(keys) if key not in chosen], aside


def subset(data: datasets.Dataset, size: int | None, seed: int, least: int = 1) -> datasets.Dataset:
    """At most ``size`` examples, each class in proportion. Multi-label data: at random.

    Args:
        least: examples that every class has where it had them; 1, then none, where ``size`` does not allow for that.
    """
    if size is None or size >= len(data):
        return data
    labels = data["label"][:]
    groups = [rows for _, rows in sorted(_by_class(labels, range(len(labels))).items())]
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    for rows, count in zip(groups, _shares([len(rows) for rows in groups], size, least), strict=True):
        chosen += generator.permutation(rows)[:count].tolist()
    return data.select(sorted(chosen))


def class_counts(labels: Sequence[Any], names: Sequence[str]) -> dict[str, int]:
    """Class name -> number of examples, classes without any among them."""
    counts: Counter[int] = Counter()
    for label in labels:
        counts.update(label if isinstance(label, list) else [label])
    return {name: counts[index] for index, name in enumerate(names)}


def require_examples(counts: dict[str, int], least: int, limit: int | None = None) -> None:
    """Raises DataError where a class has fewer than ``least`` training examples.

    Args:
        counts: class name -> examples.
        limit: ``max_train_samples``, if the counts are of what that left.
    """
    short = [(name, count) for name, count in counts.items() if count < least]
    if not short:
        return
    having = listed([f"{name!r} has {count}" for name, count in short])
    if limit is not None:
        way_out = f"Raise max_train_samples={limit} to {least * len(counts)} or more, or lower min_examples_per_class."
    else:
        way_out = "Add examples, remove the class from the data, or lower min_examples_per_class."
        if any(count == 0 for _, count in short):
            way_out += " Classes that do not occur can be left out by naming the others in data.label_names."
    raise DataError(
        f"data.min_examples_per_class={least}: every class needs at least {least} training examples; {having}. "
        f"{way_out}"
    )


def _shares(sizes: Sequence[int], size: int, least: int) -> list[int]:
    """How many of each class make ``size`` together: in proportion, none below ``least`` where that is possible."""
    available = np.array(sizes)
    floor = np.zeros_like(available)
    for lowest in (least, 1):
        if np.minimum(available, lowest).sum() <= size:
            floor = np.minimum(available, lowest)
            break
    quota = available * size / available.sum()
    shares = np.maximum(floor, np.floor(quota).astype(int))
    while shares.sum() < size:
        shares[np.argmax(np.where(shares < available, quota - shares, -np.inf))] += 1
    while shares.sum() > size:
        shares[np.argmax(np.where(shares > floor, shares - quota, -np.inf))] -= 1
    return [int(share) for share in shares]


def _by_class(labels: Sequence[Any], rows: Iterable[int]) -> dict[int, list[int]]:
    """Class -> rows; all rows together for multi-label data."""
    found: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        found[0 if isinstance(labels[row], list) else labels[row]].append(row)
    return found
