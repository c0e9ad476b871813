"""Fronts and hypervolumes against counting by hand and by chance; rankings and tests against references."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from hf_fsl.search.errors import SearchError
from hf_fsl.search.fronts import crowding_distances, hypervolume, non_dominated_ranks, pareto_front
from hf_fsl.search.statistics import (
    holm,
    paired_p_value,
    repeatability,
    stratified_correlation,
    stratified_kendall,
)


def test_ranks_peel_one_front_after_the_other():
    points = np.array([[1, 4], [2, 2], [4, 1], [2, 4], [3, 3], [5, 5], [2, 2]], dtype=float)
    assert non_dominated_ranks(points).tolist() == [0, 0, 0, 1, 1, 2, 0]
    assert pareto_front(points).tolist() == [0, 1, 2]


def test_crowding_is_the_box_between_the_neighbours():
    points = np.array([[0, 10], [1, 6], [4, 3], [10, 0]], dtype=float)
    expected = [np.inf, 4 / 10 + 7 / 10, 9 / 10 + 6 / 10, np.inf]
    np.testing.assert_allclose(crowding_distances(points), expected)


def test_hypervolume_in_two_objectives_by_hand():
    points = np.array([[1, 3], [2, 1], [2, 3], [9, 0]], dtype=float)
    assert hypervolume(points, np.array([4.0, 4.0])) == 3 * 1 + 2 * 2
    assert hypervolume(np.array([[5.0, 5.0]]), np.array([4.0, 4.0])) == 0


def test_hypervolume_in_three_objectives_by_inclusion_and_exclusion():
    rng = np.random.default_rng(0)
    points, reference = rng.random((6, 3)), np.ones(3)
    expected = 0.0
    for size in range(1, 7):
        for chosen in itertools.combinations(range(6), size):
            expected -= (-1) ** size * np.prod(reference - points[list(chosen)].max(0))
    assert hypervolume(points, reference) == pytest.approx(expected)


def test_points_that_are_none_are_refused():
    with pytest.raises(SearchError, match="all finite"):
        pareto_front(np.array([[1.0, np.nan]]))


def test_kendall_of_one_stratum_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.random(12), rng.random(12)
    assert stratified_kendall(a, b, [0] * 12) == pytest.approx(stats.kendalltau(a, b).statistic)


def test_kendall_within_strata_does_not_see_what_is_between_them():
    a, strata = [1, 2, 3, 11, 12, 13], [0, 0, 0, 1, 1, 1]
    assert stratified_kendall(a, [3, 2, 1, 13, 12, 11], strata) == -1
    assert stats.kendalltau(a, [3, 2, 1, 13, 12, 11]).statistic > 0
    with pytest.raises(SearchError, match="two members in one"):
        stratified_kendall([1, 2], [1, 2], [0, 1])


def test_correlation_of_one_stratum_is_scipys_and_strata_cost_freedom():
    rng = np.random.default_rng(0)
    a, b = rng.random(12), rng.random(12)
    expected = stats.pearsonr(a, b, alternative="greater")
    assert stratified_correlation(a, b, [0] * 12) == pytest.approx((expected.statistic, expected.pvalue))
    strata = [0] * 6 + [1] * 6
    shifted = stratified_correlation(a + 9 * np.array(strata), b - 5 * np.array(strata), strata)
    assert shifted == pytest.approx(stratified_correlation(a, b, strata))
    assert stratified_correlation([1, 1, 1], [1, 2, 3], [0] * 3) == (0.0, 1.0)


def test_repeatability_of_two_replicates_is_the_f_test_of_a_block_design():
    rng = np.random.default_rng(1)
    table = rng.random((5, 2))
    blocks = table - table.mean(0)
    between = 2 * (blocks.mean(1) ** 2).sum() / 4
    within = ((blocks - blocks.mean(1, keepdims=True)) ** 2).sum() / 4
    assert repeatability(table[None], [0] * 5) == pytest.approx(stats.f.sf(between / within, 4, 4))
    assert repeatability(np.array([[[1.0, 1.0], [2.0, 2.0]]]), [0, 0]) == 0.0
    with pytest.raises(SearchError, match="two replicates"):
        repeatability(np.zeros((1, 2, 1)), [0, 0])


def test_repeatability_is_fair_under_noise():
    rng = np.random.default_rng(0)
    strata = [0] * 3 + [1] * 3
    values = [repeatability(rng.standard_normal((1, 6, 2)), strata) for _ in range(400)]
    assert stats.kstest(values, "uniform").pvalue > 0.01


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_paired_test_is_scipys_and_knows_when_nothing_differs():
    rng = np.random.default_rng(0)
    a, b = rng.random(20), rng.random(20)
    assert paired_p_value(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert paired_p_value(a, a) == 1.0
    assert paired_p_value(a, a + 1, "less") == 0.0
    assert paired_p_value(a, a + 1, "greater") == 1.0
