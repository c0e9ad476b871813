"""The start that all trials of a search share, found once."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from hf_fsl.data.encoding import EncodedSplit
from hf_fsl.models.adapters import attach_adapter
from hf_fsl.search.cost import Meter
from hf_fsl.search.space import Architecture, Sites, to_adapter_config, uniform_ranks
from hf_fsl.training import Start, find_start
from hf_fsl.training.losses import ClassificationLoss
from hf_fsl.training.update import Batch

DIRECTIONS = 64
"""Of the gradient that are kept at each site; the ranks beyond, of an adapter that has more, start at random."""


def shared_start(
    model: nn.Module,
    sites: Sites,
    head: Sequence[str],
    split: EncodedSplit,
    loss: ClassificationLoss,
    new_head: bool,
    meter: Meter,
) -> Start:
    """:func:`hf_fsl.training.find_start` with an adapter at every site, whose directions are good for all others.

    Args:
        model: without an adapter; stays as it is.
        meter: what it costs is added to it.
    """
    everywhere = Architecture("lora", uniform_ranks(DIRECTIONS, sites))

    def count(inputs: Batch, backward: bool) -> None:
        meter.forward(inputs, everywhere, sites)
        if backward:
            meter.backward(inputs, everywhere, sites, weights=True)

    with meter.timed(), torch.random.fork_rng(devices=[]):
        adapted = attach_adapter(copy.deepcopy(model), to_adapter_config(everywhere, sites), head)
        start = find_start(adapted, split, loss, new_head, count)
    meter.gradient_steps += 1
    return start
