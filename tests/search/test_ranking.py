"""Rankings within strata and their tests, against scipy and under noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hf_fsl.search.errors import SearchError
from hf_fsl.search.ranking import (
    paired_p_value,
    repeatability,
    stratified_correlation,
    stratified_kendall,
)


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


def test_paired_test_is_scipys_and_knows_when_nothing_differs():
    rng = np.random.default_rng(0)
    a, b = rng.random(20), rng.random(20)
    assert paired_p_value(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert paired_p_value(a, a) == 1.0
    assert paired_p_value(a, a + 1, "less") == 0.0
    assert paired_p_value(a, a + 1, "greater") == 1.0
