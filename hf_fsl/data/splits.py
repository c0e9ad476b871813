"""Stratified splits and subsets, the same for the same seed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from hf_fsl.data.errors import DataError


def set_aside(data: datasets.Dataset, fraction: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """A stratified split: (what stays, what is set aside).

    A class with two examples or more keeps at least one on each side. Multi-label data is split at random: there is
    no class to stratify by.
    """
    generator = np.random.default_rng(seed)
    aside: list[int] = []
    for rows in _by_class(data["label"]).values():
        count = round(len(rows) * fraction)
        if len(rows) > 1:
            count = min(max(count, 1), len(rows) - 1)
        aside += generator.permutation(rows)[:count].tolist()
    chosen = set(aside)
    return data.select([row for row in range(len(data)) if row not in chosen]), data.select(sorted(aside))


def subset(data: datasets.Dataset, size: int | None, seed: int) -> datasets.Dataset:
    """At most ``size`` examples, stratified: every class in turn gives one, as long as it has any."""
    if size is None or size >= len(data):
        return data
    generator = np.random.default_rng(seed)
    queues = [generator.permutation(rows).tolist() for _, rows in sorted(_by_class(data["label"]).items())]
    chosen: list[int] = []
    while len(chosen) < size:
        for queue in queues:
            if queue and len(chosen) < size:
                chosen.append(queue.pop())
    return data.select(sorted(chosen))


def class_counts(labels: Sequence[Any], names: Sequence[str]) -> dict[str, int]:
    """Class name -> number of examples, classes without any among them."""
    counts: Counter[int] = Counter()
    for label in labels:
        counts.update(label if isinstance(label, list) else [label])
    return {name: counts[index] for index, name in enumerate(names)}


def require_examples(counts: dict[str, int], least: int) -> None:
    """Raises DataError where a class has fewer than ``least`` training examples."""
    short = {name: count for name, count in counts.items() if count < least}
    if short:
        listed = ", ".join(f"{name!r} has {count}" for name, count in list(short.items())[:8])
        more = f" and {len(short) - 8} more" if len(short) > 8 else ""
        raise DataError(
            f"data.min_examples_per_class={least}: every class needs at least {least} training examples; "
            f"{listed}{more}. Add examples, drop the class, or lower min_examples_per_class."
        )


def _by_class(labels: Sequence[Any]) -> dict[Any, list[int]]:
    rows: dict[Any, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        rows[None if isinstance(label, list) else label].append(row)
    return rows
