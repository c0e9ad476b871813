"""Dominance, hypervolume and spread, against definitions written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hf_fsl.search.pareto import (
    crowding_distances,
    front,
    hypervolume,
    most_hypervolume,
    non_dominated_ranks,
    spread,
)


def dominates(a, b):
    return all(a <= b) and any(a < b)


def test_ranks_are_those_of_peeling_fronts_off():
    values = np.random.default_rng(0).integers(0, 6, (60, 3)).astype(float)
    values[3] = np.inf
    left, expected, rank = set(range(60)), np.zeros(60, dtype=int), 0
    while left:
        best = {i for i in left if not any(dominates(values[j], values[i]) for j in left)}
        for i in best:
            expected[i] = rank
        left, rank = left - best, rank + 1
    assert (non_dominated_ranks(values) == expected).all()
    assert set(front(values)) == set(np.flatnonzero(expected == 0))


def test_hypervolume_is_the_area_counted_on_a_grid():
    points = np.random.default_rng(1).integers(0, 12, (15, 2)).astype(float)
    cells = sum((points <= (x, y)).all(-1).any() for x in range(10) for y in range(10))
    assert hypervolume(points, (10, 10)) == cells
    assert hypervolume(np.empty((0, 2)), (1, 1)) == 0
    assert hypervolume(np.array([[2.0, 0.0], [np.inf, 0.0]]), (1, 1)) == 0


def test_front_of_two_objectives_goes_from_small_to_large():
    values = np.array([[1.0, 9.0], [3.0, 2.0], [2.0, 4.0], [3.0, 5.0]])
    assert front(values).tolist() == [1, 2, 0]
    assert front(np.empty((0, 2))).tolist() == []


def test_spread_holds_the_ends_and_is_even_in_the_logarithm():
    assert spread([1, 10, 11, 12, 100, 1000], 4) == [0, 3, 4, 5]
    assert spread([5, 6], 4) == [0, 1]
    assert spread([1, 10, 100], 1) == [2]


@pytest.mark.parametrize("seed", range(20))
def test_the_members_of_most_hypervolume_are_those_of_all_subsets_that_hold_the_last(seed):
    values = np.random.default_rng(seed).random((30, 2))
    values, reference = values[front(values)], (0.9, 0.8)
    inside = [i for i, point in enumerate(values) if (point < reference).all()]
    for count in (1, 2, 3, 5):
        found = most_hypervolume(values, reference, count)
        subsets = itertools.combinations(inside[:-1], min(count, len(inside)) - 1)
        best = max(hypervolume(values[[*subset, inside[-1]]], reference) for subset in subsets)
        assert found == sorted(set(found)) and len(found) <= count and found[-1] == inside[-1]
        assert hypervolume(values[found], reference) == pytest.approx(best)


def test_a_front_worse_than_the_reference_gives_its_best_member():
    assert most_hypervolume(np.array([[3.0, 1.0], [2.5, 2.0]]), (2.0, 4.0), 3) == [1]
    assert most_hypervolume(np.empty((0, 2)), (2.0, 4.0), 3) == []


def test_hypervolume_of_three_objectives_by_inclusion_and_exclusion():
    points, reference, expected = np.random.default_rng(0).random((6, 3)), np.ones(3), 0.0
    for size in range(1, 7):
        for chosen in itertools.combinations(range(6), size):
            expected -= (-1) ** size * np.prod(reference - points[list(chosen)].max(0))
    assert hypervolume(points, reference) == pytest.approx(expected)


def test_crowding_is_the_box_between_the_neighbours():
    points = np.array([[0, 10], [1, 6], [4, 3], [10, 0]], dtype=float)
    np.testing.assert_allclose(crowding_distances(points), [np.inf, 4 / 10 + 7 / 10, 9 / 10 + 6 / 10, np.inf])
