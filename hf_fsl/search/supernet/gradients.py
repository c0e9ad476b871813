"""One gradient pass over the frozen backbone: which sites the loss pulls at, and in which directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_fsl.search.data import Split, make_batch
from hf_fsl.search.meter import Meter
from hf_fsl.search.space import GROUPS, Architecture, SearchSpace, Site, Sites
from hf_fsl.search.space.limits import ladder
from hf_fsl.search.supernet.nested import Supernet

NOISE = 1e-4
"""Share of the largest singular value below which one counts as zero."""


@dataclass(frozen=True)
class SiteGradient:
    """The gradient of the mean loss in one site's weight, its leading singular triples.

    ``values`` ``(r,)`` descending; ``right`` ``(r, fan_in)``: rows are directions among the site's inputs.
    """

    values: Tensor
    right: Tensor


def gradient_pass(
    model: nn.Module,
    sites: Sites,
    split: Split,
    rank: int,
    batch_size: int = 32,
    meter: Meter | None = None,
) -> dict[str, SiteGradient]:
    """Gradients of the cross-entropy over a whole split in the weights of all sites, without an adapter.

    The model is in evaluation mode meanwhile and left as it was.

    Args:
        rank: singular triples to keep of each site.
    """
    weights = {site.name: model.get_parameter(f"{site.name}.weight") for site in sites.sites}
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    training = [module for module in model.modules() if module.training]
    model.eval().requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    device = next(model.parameters()).device
    lowest = Architecture.uniform(0, len(sites.layers)).replace(method="lora", ranks=_lowest(sites))
    try:
        for start in range(0, len(split), batch_size):
            inputs, labels = make_batch(split, range(start, min(start + batch_size, len(split))), device)
            loss = F.cross_entropy(model(**inputs).logits.float(), labels, reduction="sum") / len(split)
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, found, strict=True):
                if gradient is not None:
                    total[name] += gradient
            if meter is not None:
                meter.forward(inputs, lowest, sites)
                meter.backward(inputs, lowest, sites, weights=True)
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])
        for module in training:
            module.training = True
    if meter is not None:
        meter.gradient_steps += 1
    return {site.name: _decomposed(total[site.name], site, rank) for site in sites.sites}


def seed_increments(gradients: Mapping[str, SiteGradient], space: SearchSpace) -> list[tuple[float, int, str, int]]:
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


def nested_seeds(gradients: Mapping[str, SiteGradient], space: SearchSpace, like: Architecture) -> list[Architecture]:
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


def initialize_from(supernet: Supernet, gradients: Mapping[str, SiteGradient]) -> None:
    """Rows of A: the gradient's leading right singular vectors, as long as PEFT's random rows are; B stays zero.

    The first step then moves B·A along the best approximation of the gradient at every rank (as in LoRA-GA, Wang et
    al. 2024, but without changing the base weights). Directions beyond those known stay random.
    """
    with torch.no_grad():
        for name, site in supernet.nested.items():
            rows = gradients[name].right[: site.largest].to(site.lora_A)
            length = site.lora_A[: len(rows)].norm(dim=1, keepdim=True)
            values = gradients[name].values[: site.largest].to(site.lora_A)
            # Below, singular vectors are those of rounding errors: C classes give a head's gradients a rank below C.
            known = (values > NOISE * values.max())[:, None]
            site.lora_A[: len(rows)] = torch.where(known, rows * length, site.lora_A[: len(rows)])
            site.lora_B.zero_()


def _decomposed(gradient: Tensor, site: Site, rank: int) -> SiteGradient:
    flat = gradient.detach().float()
    # transformers' Conv1D holds its weight as (fan_in, fan_out)
    matrix = flat.T if flat.ndim == 2 and not site.linear else flat.reshape(-1, site.fan_in)
    kept = min(rank, *matrix.shape)
    if not bool(matrix.any()):
        return SiteGradient(torch.zeros(kept), torch.zeros(kept, matrix.shape[1]))
    if min(matrix.shape) <= 1024:
        _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        _, values, basis = torch.svd_lowrank(matrix, q=kept + 8, niter=4)
        right = basis.T
    right = right[:kept]
    signs = right.gather(1, right.abs().argmax(1, keepdim=True)).sign()  # or they would depend on rounding
    return SiteGradient(values[:kept].cpu(), (right * signs).cpu())


def _lowest(sites: Sites) -> Sequence[Sequence[int]]:
    """Ranks that stand for gradients down to the lowest layer."""
    present = {group for layer, group in sites.slots if layer == 0}
    return tuple(tuple(int(layer == 0 and group in present) for group in GROUPS) for layer in range(len(sites.layers)))
