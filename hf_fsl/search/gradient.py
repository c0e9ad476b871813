"""The shortest path of a search: one gradient pass names an adapter of every size, and some of them are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from hf_fsl.models.adapters.gradients import LayerGradient, leading, weight_gradients
from hf_fsl.search.cost import Meter
from hf_fsl.search.errors import SearchError
from hf_fsl.search.space.architecture import Architecture, uniform_ranks, with_even_steps
from hf_fsl.search.space.sites import GROUPS, Sites
from hf_fsl.search.space.space import SearchSpace, ladder

Batch = dict[str, Tensor]

USUAL = {"dropout": 0.0, "learning_rate": 1e-3, "steps": 100}
"""Of the choices that a space has, a family takes those nearest to these."""


class Split(Protocol):
    """Encoded examples, as :class:`hf_fsl.data.encoding.EncodedSplit` holds them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def collate(self, items: Sequence[Any]) -> Batch: ...


def gradient_family(
    model: nn.Module, space: SearchSpace, train: Split, batch_size: int, meter: Meter
) -> list[Architecture]:
    """Nested LoRA adapters, smallest first, each larger one with a rank more where it gains most for its parameters.

    They are read off the gradient of the frozen model's loss: no validation example is looked at. Each has the scaling
    that suits its size (:func:`hf_fsl.search.space.with_even_steps`).

    Args:
        model: a classifier without an adapter; it stays as it is.
        train: the examples to take the gradient on.
        meter: counts what the pass costs.

    Returns:
        The family within the space's constraints.

    Raises:
        SearchError: the space has no LoRA, or no member meets its constraints.
    """
    config = space.config
    if "lora" not in config.methods:
        raise SearchError(f"A gradient ranks the sites of lora, which is not among the methods {config.methods}.")
    with meter.timed():
        gradients = gradient_pass(model, space.sites, train, max(config.ranks), batch_size, meter)
    training = {name: _nearest(getattr(config, name), usual) for name, usual in USUAL.items()}
    family = nested_adapters(gradients, space, training)
    if not family:
        raise SearchError("No adapter that the gradient proposes meets the constraints of the space. Loosen them.")
    return family


def gradient_pass(
    model: nn.Module, sites: Sites, split: Split, rank: int, batch_size: int, meter: Meter
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
            batch = split.collate([split[i] for i in range(start, min(start + batch_size, len(split)))])
            inputs = {name: value.to(device) for name, value in batch.items() if name not in ("index", "labels")}
            logits = model(**inputs).logits.float()
            yield F.cross_entropy(logits, batch["labels"].to(device), reduction="sum") / len(split)
            meter.forward(inputs, lowest, sites)
            meter.backward(inputs, lowest, sites, weights=True)

    weights = {site.name: model.get_parameter(f"{site.name}.weight") for site in sites.sites}
    total = weight_gradients(model, weights, losses())
    meter.gradient_steps += 1
    # transformers' Conv1D holds its weight as (fan_in, fan_out)
    return {
        site.name: leading(total[site.name], site.fan_in, rank, total[site.name].ndim == 2 and not site.linear)
        for site in sites.sites
    }


def rank_increments(gradients: Mapping[str, LayerGradient], space: SearchSpace) -> list[tuple[float, int, str, int]]:
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


def nested_adapters(
    gradients: Mapping[str, LayerGradient], space: SearchSpace, training: Mapping[str, Any]
) -> list[Architecture]:
    """The nested family that the prefixes of :func:`rank_increments` are, smallest first, within the constraints.

    Args:
        training: learning rate, steps and dropout, among the choices of the space.
    """
    floor, layers = min(space.config.ranks), len(space.sites.layers)
    ranks = [[floor if (layer, group) in space.slots else 0 for group in GROUPS] for layer in range(layers)]
    family = []
    for _, layer, group, rank in rank_increments(gradients, space):
        place = GROUPS.index(group)
        ranks[layer][place] = max(rank, ranks[layer][place])
        member = Architecture("lora", tuple(map(tuple, ranks)), **training)
        member = with_even_steps(member, space.sites, space.config.scaling)
        if not space.violations(member):
            family.append(member)
    return list(dict.fromkeys(family))


def _nearest(choices: Sequence[float], wanted: float) -> float:
    return min(choices, key=lambda choice: abs(choice - wanted))
