"""How long a model takes, with its adapter beside the weights and merged into them."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_fsl.models.adapters.attach import merge_adapter
from hf_fsl.search.errors import SearchError


@dataclass(frozen=True)
class Latency:
    """Seconds a forward pass: the median and the quartiles over the repeats."""

    median: float
    low: float
    high: float
    repeats: int


def measure_latency(
    models: Sequence[nn.Module], inputs: Mapping[str, Tensor], repeats: int = 30, warm_up: int = 3
) -> list[Latency]:
    """Latency of each of some models on the same inputs, in evaluation mode, without gradients.

    The models take turns, so that what else the machine does falls on all of them alike.

    Args:
        inputs: keyword arguments of the models, on their device.
        repeats: timed passes of each model.
        warm_up: passes before that are not timed.
    """
    if repeats < 1:
        raise SearchError(f"repeats: at least 1, got {repeats}.")
    training = [model.training for model in models]
    seconds = np.empty((repeats, len(models)))
    with torch.inference_mode():
        for number in range(-warm_up, repeats):
            for column, model in enumerate(models):
                _wait(inputs)
                start = time.perf_counter()
                model.eval()(**inputs)
                _wait(inputs)
                if number >= 0:
                    seconds[number, column] = time.perf_counter() - start
    for model, mode in zip(models, training, strict=True):
        model.train(mode)
    quartiles = np.quantile(seconds, [0.25, 0.5, 0.75], axis=0)
    return [Latency(float(middle), float(low), float(high), repeats) for low, middle, high in quartiles.T]


def measure_adapter_latency(model: nn.Module, inputs: Mapping[str, Tensor], repeats: int = 30) -> dict[str, Latency]:
    """``unmerged``: the adapted model as it is; ``merged``: a copy with the adapter in its weights."""
    merged = merge_adapter(copy.deepcopy(model))
    unmerged, plain = measure_latency([model, merged], inputs, repeats)
    return {"unmerged": unmerged, "merged": plain}


def _wait(inputs: Mapping[str, Any]) -> None:
    device = next(iter(inputs.values())).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
