"""Pareto dominance: ranks, the front, its hypervolume, and a few members that span it. All values are minimised."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def non_dominated_ranks(values: np.ndarray) -> np.ndarray:
    """The front that each point lies on: 0 for points that none dominates, 1 once those are taken away, and so on.

    Args:
        values: ``(N, M)``, all minimised; infinite where a point failed.

    Returns:
        Ranks ``(N,)`` (Deb et al. 2002).
    """
    values = np.asarray(values, dtype=float)
    no_worse: np.ndarray = np.all(values[:, None] <= values[None], axis=-1)
    dominates: np.ndarray = no_worse & np.any(values[:, None] < values[None], axis=-1)
    ranks = np.full(len(values), -1)
    rank = 0
    while (left := ranks < 0).any():
        ranks[left & ~dominates[left].any(0)] = rank
        rank += 1
    return ranks


def front(values: np.ndarray) -> np.ndarray:
    """Indices of the points ``(N, M)`` that no other dominates, by ascending second value, then first."""
    if len(values) == 0:
        return np.empty(0, dtype=int)
    chosen = np.flatnonzero(non_dominated_ranks(values) == 0)
    first, last = values[chosen, 0], values[chosen, min(1, values.shape[1] - 1)]
    return np.asarray(chosen[np.lexsort((first, last))])


def crowding_distances(values: np.ndarray) -> np.ndarray:
    """``(N,)``: how far apart the neighbours of each point of one front ``(N, M)`` are; infinite at its ends."""
    distances = np.zeros(len(values))
    for column in np.asarray(values, dtype=float).T:
        order = np.argsort(column, kind="stable")
        extent = column[order[-1]] - column[order[0]]
        distances[order[[0, -1]]] = np.inf
        if extent > 0:
            distances[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / extent
    return distances


def hypervolume(values: np.ndarray, reference: Sequence[float]) -> float:
    """Volume that points ``(N, M)`` dominate below a reference point ``(M,)`` (Zitzler and Thiele 1998); 0 without
    points. Exact."""
    limits = np.asarray(reference, dtype=float)
    points = np.asarray(values, dtype=float).reshape(-1, len(limits))
    points = points[(points < limits).all(-1)]
    return _volume(points, limits) if len(points) else 0.0


def _volume(points: np.ndarray, reference: np.ndarray) -> float:
    """Slices along the last objective, each as large as what the points up to it dominate in the others."""
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    ends = [*points[1:, -1], reference[-1]]
    slices = [
        (end - point[-1]) * _volume(points[:count, :-1], reference[:-1])
        for count, (point, end) in enumerate(zip(points, ends, strict=True), start=1)
        if end > point[-1]
    ]
    return float(sum(slices))


def most_hypervolume(values: np.ndarray, reference: Sequence[float], count: int) -> list[int]:
    """Up to ``count`` positions of a front, the last among them, that together dominate the most.

    Exact in O(count · N²), by dynamic programming from the last: what a point adds to those behind it depends on the
    next one alone (Auger et al. 2009, "Theory of the hypervolume indicator").

    Args:
        values: ``(N, 2)``, a front as :func:`front` orders it: by ascending second value, so that the last has the
            best first one.
        reference: of the hypervolume; points not below it are left out, except where all are: then the last remains.
    """
    values, (worst, end) = np.asarray(values, dtype=float), reference
    inside = [i for i, (first, second) in enumerate(values) if first < worst and second < end]
    if not inside:
        return [len(values) - 1][: len(values)]
    heights, places = worst - values[inside, 0], values[inside, 1]
    gains = heights[:, None] * (places[None] - places[:, None])
    gains[np.tril_indices(len(inside))] = -np.inf
    best = np.full(len(inside), -np.inf)
    best[-1] = heights[-1] * (end - places[-1])
    totals, followers = [best], list[np.ndarray]()
    for _ in range(min(count, len(inside)) - 1):
        reached = gains + totals[-1]
        totals.append(reached.max(1))
        followers.append(reached.argmax(1))
    start = int(np.argmax([each.max() for each in totals]))
    chosen = [int(totals[start].argmax())]
    for following in followers[:start][::-1]:
        chosen.append(int(following[chosen[-1]]))
    return [inside[i] for i in chosen]


def spread(sizes: Sequence[float], count: int) -> list[int]:
    """``count`` positions of an ascending list, the ends among them, evenly spread over the logarithm of its values.

    Greedy: each next one is the farthest from those chosen (Gonzalez 1985).
    """
    places = [math.log(max(size, 1e-12)) for size in sizes]
    if len(places) <= count:
        return list(range(len(places)))
    chosen = [len(places) - 1, 0][:count]
    while len(chosen) < count:
        rest = [i for i in range(len(places)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(abs(places[i] - places[j]) for j in chosen)))
    return sorted(chosen)
