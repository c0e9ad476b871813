"""Successive halving with several objectives: Optuna's pruners have one only, so the rungs are ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hf_fsl.search.pareto import non_dominated_ranks
from hf_fsl.search.study.trials import minimised

_FAILED = 1e300
"""Stands for a value that is no number: behind all others."""


def goes_on(
    mine: Mapping[str, float], others: Sequence[Mapping[str, float]], objectives: Sequence[str], factor: float
) -> bool:
    """Whether a trial is among the best 1/``factor`` of those that reached its rung so far (Li et al. 2020).

    Ahead of it are those on a better front; so what is on the first front always goes on. Nobody is stopped while
    no more than ``factor`` trials are there.

    Args:
        mine: objective -> value at the rung.
        others: those of the other trials there.
    """
    if len(others) + 1 <= factor:
        return True
    rows = [[minimised(name, row[name]) for name in objectives] for row in (mine, *others)]
    ranks = non_dominated_ranks(np.nan_to_num(np.array(rows), nan=_FAILED, posinf=_FAILED))
    return int((ranks < ranks[0]).sum()) < len(rows) / factor
