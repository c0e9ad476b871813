"""The classification head trained alone on features computed once: the start of everything else."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hf_fsl.adapters import alone_required
from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.search.data import Split, make_batch
from hf_fsl.search.meter import Meter
from hf_fsl.search.space import Architecture, Sites
from hf_fsl.search.supernet.prefix import PrefixCache


def fit_head_alone(
    model: nn.Module,
    sites: Sites,
    split: Split,
    config: SupernetConfig,
    seed: int = 0,
    meter: Meter | None = None,
) -> None:
    """``config.head_steps`` AdamW steps over the whole split each, the encoder in evaluation mode.

    A head at random weights sends gradients of random directions into the encoder; one that fits the frozen features
    sends what is still missing. The encoder runs once, the steps take its layers from the prefix cache.

    Args:
        model: the classifier, no adapter active; changed in place.
    """
    none = Architecture.uniform(0, len(sites.layers))
    device = next(model.parameters()).device
    size = config.per_device_eval_batch_size
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)).tolist()
    batches = [make_batch(split, order[start : start + size], device) for start in range(0, len(order), size)]
    parameters = [p for part in sites.head for p in model.get_submodule(part).parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.head_learning_rate or config.learning_rate, weight_decay=0.0)
    cache = PrefixCache(model, sites)
    with alone_required(model, parameters):
        for _ in range(config.head_steps):
            for number, (inputs, labels) in enumerate(batches):
                with cache.reuse(number, None) as taken:
                    loss = F.cross_entropy(model(**inputs).logits.float(), labels, reduction="sum") / len(split)
                loss.backward()
                if meter is not None:
                    meter.forward(inputs, none, sites, taken)
                    meter.backward(inputs, none, sites)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if meter is not None:
                meter.gradient_steps += 1
