"""Members of like size that differ in the supernet's eyes: what an audit trains alone."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from hf_fsl.search.errors import SearchError
from hf_fsl.search.space import Architecture, SearchSpace
from hf_fsl.search.space.limits import parameter_range
from hf_fsl.search.supernet import TrainedSupernet

WIDTH = 0.1
"""How far from the size of its stratum an anchor's may be."""


@dataclass(frozen=True)
class Anchors:
    """Architectures of like size in each stratum, and the supernet's validation loss of each."""

    architectures: list[Architecture]
    strata: list[int]
    supernet_losses: list[float]
    parameters: list[int]


def choose_anchors(
    trained: TrainedSupernet, strata: int = 2, per_stratum: int = 3, seed: int = 0, pool: int = 24
) -> Anchors:
    """Members of like size in each of some sizes, spread over the supernet's ranking there.

    Args:
        strata: sizes, evenly over the logarithm of what the space offers.
        per_stratum: anchors of a size.
        pool: members of a size that the supernet scores for it.

    Raises:
        SearchError: fewer than two anchors a stratum asked for, or a space too small for two of one size.
    """
    if strata < 1 or per_stratum < 2:
        raise SearchError(f"An audit needs a stratum and two anchors in it; got {strata} and {per_stratum}.")
    rng, space = np.random.default_rng(seed), _lora_only(trained.space)
    low, high = _sizes(space)
    chosen: list[tuple[Architecture, int, float]] = []
    for stratum in range(strata):
        target = math.exp(low + (high - low) * (stratum + 1) / (strata + 1))
        members = _of_size(space, target, pool, rng)
        if len(members) < 2:
            continue
        losses = {member: float(trained.evaluator.losses(member).mean()) for member in members}
        ranked = sorted(members, key=lambda member: losses[member])
        places = np.linspace(0, len(ranked) - 1, min(per_stratum, len(ranked))).round().astype(int)
        chosen += [(ranked[place], stratum, losses[ranked[place]]) for place in dict.fromkeys(places.tolist())]
    if not chosen:
        raise SearchError("The space has no two architectures of like size: there is nothing to audit.")
    architectures, groups, scores = (list(column) for column in zip(*chosen, strict=True))
    return Anchors(architectures, groups, scores, [space.parameters(architecture) for architecture in architectures])


def _lora_only(space: SearchSpace) -> SearchSpace:
    return SearchSpace(dataclasses.replace(space.config, methods=["lora"]), space.sites)


def _sizes(space: SearchSpace) -> tuple[float, float]:
    """Logarithms of the fewest and most parameters an adapter of the space has, head not counted."""
    low, high = parameter_range(space.config, space.sites, space.slots, "lora")
    most = space.config.max_parameters
    high = min(high, most) if most is not None else high
    head = space.sites.head_parameters
    return math.log(max(1, max(low, space.config.min_parameters or 0) - head)), math.log(max(1, high - head))


def _of_size(space: SearchSpace, target: float, count: int, rng: np.random.Generator) -> list[Architecture]:
    """Different members whose adapter has the target's number of parameters, give or take a tenth."""
    head, members = space.sites.head_parameters, dict[Architecture, None]()
    least, most = head + math.floor(target * (1 - WIDTH)), head + math.ceil(target * (1 + WIDTH))
    within = dataclasses.replace(
        space.config,
        min_parameters=max(least, space.config.min_parameters or 0),
        max_parameters=min(most, space.config.max_parameters or most),
    )
    try:
        narrow = SearchSpace(within, space.sites)
        for _ in range(4 * count):
            members[narrow.sample_stratified(rng)] = None
            if len(members) == count:
                break
    except SearchError:
        pass  # no member of that size: the stratum stays empty
    return list(members)
