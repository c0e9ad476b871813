"""Temperature scaling (Guo et al. 2017, arXiv:1706.04599) from held-out logits, made safe for few examples.

``best_scale`` judges a grid of settings by it, ``fit_temperature`` calibrates what was cross-fitted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hf_fsl.few_shot.heads.support import HeadError

_STEPS = 40
_RANGE = 200.0
"""The factor keeps the logits' deviation between 1/200 and 200: separable ones would drive it to infinity."""
_HALVINGS = 64
"""Halvings of the interval of the logarithm,"""
_REACH = 16.0
"""which is so wide on both sides of the prior's mode."""


def best_scale(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, tolerance: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """The factor on logits under which their labels are likeliest.

    It is chosen as if there were one example more, of every class in equal parts: few logits that happen to be all
    right say little about how sure to be (Platt 1999 smooths his targets so). That loss is convex in the factor:
    Newton's steps, each by at most a factor of three.

    Args:
        logits: ``(..., n, C)``, held out.
        labels: ``(n,)``.
        weights: ``(n,)``, as how many examples each counts; None: as one.
        tolerance: of the factor, relative.

    Returns:
        The factor ``(...)``, and the mean negative log likelihood ``(...)`` under it.
    """
    weights = logits.new_ones(len(labels)) if weights is None else weights.to(logits)
    number = weights.sum()
    weights = weights / number
    own = one_hot(labels, logits.shape[-1]).to(logits)
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


def fit_temperature(logits: Tensor, labels: Tensor, *, prior_strength: float = 1.0) -> Tensor:
    """The temperature T by which logits are divided, so that their softmax says how often it is right.

    Minimises, over β = 1/T,

        ``Σ log-loss(β · logits) + prior_strength · (β/β₀ − log(β/β₀))``,

    which is convex, by halving in float64. The second term weighs about as much as ``prior_strength`` examples: it
    keeps β finite where held-out logits separate the classes perfectly, and above 0 where they mislead. Its mode
    β₀ = 1/σ, σ the standard deviation of the logits less each example's mean, makes the result independent of the
    logits' unit.

    Args:
        logits: ``(..., n, C)`` of examples that the head was not fitted on: leave-one-out
            (``hf_fsl.few_shot.heads.held_out_logits``) or cross-fitted. A backbone adapted on them has seen them too.
        labels: ``(..., n)``.
        prior_strength: above 0.

    Returns:
        ``(...)``, float64; ``head.scaled(1 / T)`` is the calibrated head.

    Raises:
        HeadError: no example, shapes or labels that do not fit, logits that are not finite (as leave-one-out gives
            for the only example of a class), or a prior strength that is not above 0.
    """
    _check(logits, labels, prior_strength)
    centred = logits.double() - logits.double().mean(-1, keepdim=True)
    own = one_hot(labels, logits.shape[-1]).to(centred.dtype)
    spread = centred.square().mean((-1, -2)).sqrt()
    # Equal logits say nothing at any temperature.
    unit = torch.where(spread > 0, spread, 1.0)
    scaled = centred / unit[..., None, None]
    right = (scaled * own).sum((-1, -2))

    def slope(beta: Tensor) -> Tensor:
        expected = ((beta[..., None, None] * scaled).softmax(-1) * scaled).sum((-1, -2))
        return expected - right + prior_strength * (1 - 1 / beta)

    low, high = torch.full_like(unit, -_REACH), torch.full_like(unit, _REACH)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rising = slope(middle.exp()) > 0
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    return unit / ((low + high) / 2).exp()


def _check(logits: Tensor, labels: Tensor, prior_strength: float) -> None:
    if logits.ndim < 2 or labels.shape != logits.shape[:-1] or 0 in logits.shape:
        raise HeadError(
            f"A temperature takes logits (..., n, C) and labels (..., n), n above 0; got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}."
        )
    if not bool(logits.isfinite().all()):
        raise HeadError(
            "Held-out logits must be finite. Leave-one-out needs two examples of every class; at one shot there is "
            "nothing to calibrate on."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[-1]:
        raise HeadError(
            f"Labels of {logits.shape[-1]} classes run from 0 to {logits.shape[-1] - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}."
        )
    if not prior_strength > 0:
        raise HeadError(f"prior_strength is above 0, not {prior_strength}: without it the temperature may be 0.")
