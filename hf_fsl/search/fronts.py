"""Pareto fronts: who dominates whom, how crowded it is, how much a front covers. All objectives are minimised."""

from __future__ import annotations

import numpy as np

from hf_fsl.search.errors import SearchError


def dominates(points: np.ndarray) -> np.ndarray:
    """``(n, n)``: whether point i is nowhere worse than point j and somewhere better.

    Args:
        points: ``(n, m)``.
    """
    no_worse = (points[:, None] <= points[None]).all(-1)
    better = (points[:, None] < points[None]).any(-1)
    return np.logical_and(no_worse, better)


def non_dominated_ranks(points: np.ndarray) -> np.ndarray:
    """``(n,)``: 0 for the front, 1 for the front without these, and so on (Deb et al. 2002)."""
    _check(points)
    beaten = dominates(points)
    ranks = np.full(len(points), -1)
    rest = np.ones(len(points), dtype=bool)
    level = 0
    while rest.any():
        front = rest & ~beaten[rest].any(0)
        ranks[front] = level
        rest &= ~front
        level += 1
    return ranks


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Indices of the points that no other dominates, by the first objective; of equal points the first."""
    _check(points)
    front = np.flatnonzero(non_dominated_ranks(points) == 0)
    _, first = np.unique(points[front], axis=0, return_index=True)
    return front[np.sort(first)][np.argsort(points[front[np.sort(first)], 0], kind="stable")]


def crowding_distances(points: np.ndarray) -> np.ndarray:
    """``(n,)``: how far the neighbours of each point of one front are apart; infinite at its ends."""
    _check(points)
    distances = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        distances[order[[0, -1]]] = np.inf
        if spread > 0:
            distances[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distances


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume that is dominated by the points and dominates the reference; exact, in any number of objectives.

    Args:
        points: ``(n, m)``; those that do not dominate the reference add nothing.
        reference: ``(m,)``, the worst that counts.
    """
    _check(points)
    inside = points[(points < reference).all(1)]
    return _volume(inside, np.asarray(reference, dtype=float)) if len(inside) else 0.0


def _volume(points: np.ndarray, reference: np.ndarray) -> float:
    """Slices along the last objective, each the volume of the points that reach it in the others."""
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    ends = [*points[1:, -1], reference[-1]]
    total = 0.0
    for count, (point, end) in enumerate(zip(points, ends, strict=True), start=1):
        if end > point[-1]:
            total += (end - point[-1]) * _volume(points[:count, :-1], reference[:-1])
    return total


def _check(points: np.ndarray) -> None:
    if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
        raise SearchError(f"A front is of points (n, m), n above 0, all finite; got {points.shape}.")
