"""Whether architectures differ by more than noise: a paired test over seeds and examples, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hf_fsl.search.errors import SearchError


@dataclass(frozen=True)
class PairedTest:
    """The difference of two means, its 95 % interval, and the p-value of there being none."""

    difference: float
    ci95: tuple[float, float]
    p: float


def paired_test(first: np.ndarray, second: np.ndarray) -> PairedTest:
    """Two architectures on the same test examples, each trained with the same seeds.

    The variance of the mean difference is that over seeds, divided by their number, and that over examples, divided
    by theirs; degrees of freedom after Satterthwaite (1946). With one seed only the examples vary.

    Args:
        first, second: ``(S, N)``, one value a seed and example.
    """
    if first.shape != second.shape or first.ndim != 2 or first.shape[1] < 2:
        raise SearchError(f"A paired test needs two equal (seeds, examples); got {first.shape} and {second.shape}.")
    rows = first.astype(float) - second.astype(float)
    seeds, examples = rows.shape
    mean = float(rows.mean())
    parts = [(float(rows.mean(0).var(ddof=1)) / examples, examples - 1)]
    if seeds > 1:
        parts.append((float(rows.mean(1).var(ddof=1)) / seeds, seeds - 1))
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return PairedTest(mean, (mean, mean), 1.0 if mean == 0 else 0.0)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    error = math.sqrt(variance)
    half = float(stats.t.ppf(0.975, freedom)) * error
    return PairedTest(mean, (mean - half, mean + half), float(2 * stats.t.sf(abs(mean) / error, freedom)))


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


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for the number of comparisons (Holm 1979), in the order given."""
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return [float(value) for value in adjusted]
