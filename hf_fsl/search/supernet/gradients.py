"""One gradient pass over the frozen backbone: which sites the loss pulls at, and in which directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_fsl.adapters.gradients import LayerGradient, leading, point_along, weight_gradients
from hf_fsl.search.data import Split, make_batch
from hf_fsl.search.meter import Meter
from hf_fsl.search.space import GROUPS, Architecture, SearchSpace, Sites, uniform_ranks
from hf_fsl.search.space.limits import ladder
from hf_fsl.search.supernet.nested import Supernet


def gradient_pass(
    model: nn.Module,
    sites: Sites,
    split: Split,
    rank: int,
    batch_size: int = 32,
    meter: Meter | None = None,
) -> dict[str, LayerGradient]:
    """Gradients of the cross-entropy over a whole split in the weights of all sites, without an adapter.

    The model is in evaluation mode meanwhile and left as it was.

    Args:
        rank: singular triples to keep of each site.
    """
    device = next(model.parameters()).device
    lowest = Architecture("lora", uniform_ranks(1, sites, layers=[0]))

    def losses() -> Iterator[Tensor]:
        for start in range(0, len(split), batch_size):
            inputs, labels = make_batch(split, range(start, min(start + batch_size, len(split))), device)
            yield F.cross_entropy(model(**inputs).logits.float(), labels, reduction="sum") / len(split)
            if meter is not None:
                meter.forward(inputs, lowest, sites)
                meter.backward(inputs, lowest, sites, weights=True)

    weights = {site.name: model.get_parameter(f"{site.name}.weight") for site in sites.sites}
    total = weight_gradients(model, weights, losses())
    if meter is not None:
        meter.gradient_steps += 1
    # transformers' Conv1D holds its weight as (fan_in, fan_out)
    return {
        site.name: leading(total[site.name], site.fan_in, rank, total[site.name].ndim == 2 and not site.linear)
        for site in sites.sites
    }


def seed_increments(gradients: Mapping[str, LayerGradient], space: SearchSpace) -> list[tuple[float, int, str, int]]:
    """(score, layer, group, rank) of every step up the ranks of every slot, best first.

    The score of a site's i-th rank is σ_i / (d_in + d_out), what it gains by what it costs; a slot's sites share a
    rank, so gains and costs add up over them and over the ranks of a step. Within a slot scores never rise.
    """
    steps = []
    for layer, group in space.slots:
        members = space.sites.slots[layer, group]
        cost = sum(site.fan_in + site.fan_out for site in members)
        rungs = ladder(space.config, "lora")
        for below, rank in zip([0, *rungs], rungs, strict=False):
            if rank > below:
                gain = sum(float(gradients[site.name].values[below:rank].sum()) for site in members)
                steps.append((gain / (cost * (rank - below)), layer, group, rank))
    return sorted(steps, key=lambda step: (-step[0], step[3]))


def nested_seeds(gradients: Mapping[str, LayerGradient], space: SearchSpace, like: Architecture) -> list[Architecture]:
    """The nested family that the prefixes of :func:`seed_increments` are, smallest first, within the constraints.

    Args:
        like: gives scaling, learning rate and so on.
    """
    floor = min(space.config.ranks)
    ranks = [[floor if (layer, group) in space.slots else 0 for group in GROUPS] for layer in range(len(like.ranks))]
    family = []
    for _, layer, group, rank in seed_increments(gradients, space):
        place = GROUPS.index(group)
        ranks[layer][place] = max(rank, ranks[layer][place])
        seed = like.replace(method="lora", ranks=tuple(map(tuple, ranks)))
        if not space.violations(seed):
            family.append(seed)
    return list(dict.fromkeys(family))


def initialize_from(supernet: Supernet, gradients: Mapping[str, LayerGradient]) -> None:
    """Rows of A: the gradient's leading right singular vectors, as :func:`hf_fsl.adapters.gradients.point_along` says;
    B stays zero."""
    with torch.no_grad():
        for name, site in supernet.nested.items():
            point_along(site.lora_A[: site.largest], gradients[name])
            site.lora_B.zero_()
