"""Is a ranking more than noise: concordance within strata, repeatability, paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from hf_fsl.search.errors import SearchError

Values = Sequence[float] | np.ndarray


def stratified_kendall(first: Values, second: Values, strata: Sequence[int]) -> float:
    """Kendall's τ over the pairs within a stratum: (concordant - discordant) / pairs; ties count for neither.

    Raises:
        SearchError: no stratum has two members, or the lengths differ.
    """
    a, b, groups = _aligned(first, second, strata)
    within = np.triu(groups[:, None] == groups[None], k=1)
    return float((_signs(a) * _signs(b))[within].mean())


def stratified_correlation(first: Values, second: Values, strata: Sequence[int]) -> tuple[float, float]:
    """Pearson's correlation within strata, and its one-sided p-value (that it is above 0).

    Unlike an order of few, it sees whether differences are large: of three members a stratum, two alike, no order
    could ever be significant.
    """
    a, b, groups = _aligned(first, second, strata)
    a, b = _centred(a, groups), _centred(b, groups)
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    freedom = len(groups) - len(np.unique(groups)) - 1
    if scale < 1e-12 or freedom < 1:
        return 0.0, 1.0
    r = float((a * b).sum()) / scale
    t = r * math.sqrt(freedom / max(1e-12, 1 - r * r))
    return r, float(stats.t.sf(t, freedom))


def repeatability(replicates: np.ndarray, strata: Sequence[int]) -> float:
    """p-value of the F-test that members of a stratum differ by more than their replicates do.

    An analysis of variance with members within strata, and an effect of each replicate in each stratum taken out.

    Args:
        replicates: ``(designs, members, replicates)``: independent measurements of each member, two at least; several
            ways to pair them (designs) are averaged.
    """
    designs, count, repeats = replicates.shape
    groups = np.asarray(strata)
    if count != len(groups) or repeats < 2 or len(np.unique(groups)) == len(groups):
        raise SearchError(
            f"Repeatability needs two replicates of two members in a stratum; got {replicates.shape}, strata {strata}."
        )
    freedom = len(groups) - len(np.unique(groups))
    between = within = 0.0
    for table in replicates:
        centred = np.stack([_centred(column, groups) for column in table.T], axis=1)
        means = centred.mean(1)
        between += repeats * float((means**2).sum()) / freedom / designs
        within += float(((centred - means[:, None]) ** 2).sum()) / (freedom * (repeats - 1)) / designs
    if within < 1e-18:
        return 0.0 if between > 1e-18 else 1.0
    return float(stats.f.sf(between / within, freedom, freedom * (repeats - 1)))


def paired_p_value(ours: np.ndarray, theirs: np.ndarray, alternative: str = "two-sided") -> float:
    """Student's paired t-test over examples ``(n,)``; 1 where nothing differs or there is one example only.

    Args:
        alternative: ``less``: ours are smaller; ``greater``; ``two-sided``.
    """
    difference = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    if len(difference) < 2 or np.allclose(difference, difference[0]):
        mean = float(difference.mean()) if len(difference) > 1 else 0.0
        sure = {"less": mean < 0, "greater": mean > 0, "two-sided": mean != 0}[alternative]
        return 0.0 if sure else 1.0
    return float(stats.ttest_1samp(difference, 0.0, alternative=alternative).pvalue)


def _signs(values: np.ndarray) -> np.ndarray:
    signs: np.ndarray = np.sign(values[:, None] - values[None])
    return signs


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    centred = values.astype(float).copy()
    for group in np.unique(groups):
        centred[groups == group] -= centred[groups == group].mean()
    return centred


def _aligned(first: Values, second: Values, strata: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b, groups = (np.asarray(values) for values in (first, second, strata))
    if not a.shape == b.shape == groups.shape or a.ndim != 1:
        raise SearchError(f"Rankings are rows of one length; got {a.shape}, {b.shape} and strata {groups.shape}.")
    if len(np.unique(groups)) == len(groups):
        raise SearchError("A ranking within strata needs two members in one of them; each has one or none.")
    return a.astype(float), b.astype(float), groups
