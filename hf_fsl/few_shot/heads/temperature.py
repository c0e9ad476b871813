"""The factor on held-out logits that makes their labels likeliest: temperature scaling (Guo et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 40
_RANGE = 200.0
"""The factor keeps the logits' deviation between 1/200 and 200: separable ones would drive it to infinity."""


def best_scale(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, tolerance: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Factor ``(...)`` on logits ``(..., n, C)``, and the mean negative log likelihood ``(...)`` there.

    It is chosen as if there were one example more, of every class in equal parts: few logits that happen to be all
    right say little about how sure to be (Platt 1999 smooths his targets so). That loss is convex in the factor:
    Newton's steps, each by at most a factor of three.

    Args:
        labels: ``(n,)``.
        weights: ``(n,)``, as how many examples each counts; None: as one.
        tolerance: of the factor, relative.
    """
    weights = logits.new_ones(len(labels)) if weights is None else weights.to(logits)
    number = weights.sum()
    weights = weights / number
    own = torch.nn.functional.one_hot(labels, logits.shape[-1]).to(logits)
    logits = logits - logits.mean(-1, keepdim=True)
    deviation = logits.square().mean((-1, -2)).sqrt().clamp(min=1e-30)
    logits = logits / deviation[..., None, None]
    right = (logits * own).sum(-1) @ weights
    # The logits' mean is 0, so that the added example adds nothing to what the labels gain.
    smoothed = right * number / (number + 1)
    squares = logits.square()
    scale = torch.ones_like(deviation)
    for _ in range(_STEPS):
        probabilities = (scale[..., None, None] * logits).softmax(-1)
        mean = (probabilities * logits).sum(-1)
        slope = mean @ weights - smoothed
        curve = ((probabilities * squares).sum(-1) - mean.square()) @ weights
        step = scale - slope / curve.clamp(min=1e-30)
        moved = torch.maximum(torch.minimum(step, 3 * scale), scale / 3).clamp(1 / _RANGE, _RANGE)
        done = bool(((moved - scale).abs() <= tolerance * scale).all())
        scale = moved
        if done:
            break
    loss = torch.logsumexp(scale[..., None, None] * logits, -1) @ weights - scale * right
    return scale / deviation, loss
