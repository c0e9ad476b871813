"""The smallest and the largest adapter that a method can make of a space, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

from hf_fsl.config.search_space import RANKED, Method, SearchSpaceConfig, SiteGroup
from hf_fsl.search.space.architecture import Architecture, trainable_parameters
from hf_fsl.search.space.sites import GROUPS, Sites

Slot = tuple[int, SiteGroup]


def ladder(config: SearchSpaceConfig, method: Method) -> list[int]:
    """The ranks that a site can have with a method, ascending: without ranks, 0 and 1 as far as the space has them."""
    if method == "none":
        return [0]
    return sorted(config.ranks if method in RANKED else {int(rank > 0) for rank in config.ranks})


def parameter_range(config: SearchSpaceConfig, sites: Sites, slots: Sequence[Slot], method: Method) -> tuple[int, int]:
    """Fewest and most trainable parameters, head included, of a method's architectures.

    The fewest are those of one slot at the lowest rank where the others may be left out.
    """
    if method == "none":
        return sites.head_parameters, sites.head_parameters
    rungs = ladder(config, method)

    def size(ranks: dict[Slot, int]) -> int:
        rows = tuple(tuple(ranks.get((layer, g), 0) for g in GROUPS) for layer in range(len(sites.layers)))
        return trainable_parameters(Architecture(method, rows), sites)

    most = size(dict.fromkeys(slots, rungs[-1]))
    if rungs[0] > 0:
        return size(dict.fromkeys(slots, rungs[0])), most
    return min(size({slot: rungs[1]}) for slot in slots), most
