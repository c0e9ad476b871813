"""Kernel ridge regression on what the label names leave unexplained (ProKeR, arXiv:2501.11175; CLAP, 2312.12730)."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_fsl.few_shot.heads.estimator import Estimator
from hf_fsl.few_shot.heads.ridge import absolute, hat, solve, solve_moments, without_own
from hf_fsl.few_shot.heads.support import Moments, SupportSet, zero_shot_weight


def anchored(
    support: SupportSet, *, penalty: float = 1.0, strength: float = 3.0, unit: float | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """W = αW₀ + (Ỹ − αF₀)ᵀ (ZZᵀ + λI)⁻¹ Z, b = 0, with Ỹ = Y − 1/C and F₀ = ZW₀ᵀ: with a linear kernel, one map.

    W₀ are the label embeddings. Without supports it is αW₀, the zero-shot classifier; without them, a ridge through
    the origin.

    Args:
        penalty: λ, counted in ``unit``; None: the mean squared length of the features.
        strength: α.
    """
    support = support.double()
    start = zero_shot_weight(support, strength)
    bias = start.new_zeros(start.shape[:-1])
    if support.features.shape[-2] == 0:
        return start, bias
    features = support.features * support.roots
    strengths = absolute(penalty, unit, features, support.number)
    return start + solve(features, _residual(support, start) * support.roots, strengths), bias


def anchored_held_out(
    support: SupportSet, *, penalty: float = 1.0, strength: float = 3.0, unit: float | Tensor | None = None
) -> Tensor:
    """Leave-one-out logits ``(..., n, C)``: the residual's smoother is linear, and W₀ is no example's."""
    support = support.double()
    start = zero_shot_weight(support, strength)
    residual = _residual(support, start)
    features = support.features * support.roots
    smoother = hat(features, absolute(penalty, unit, features, support.number))
    fitted = smoother @ (residual * support.roots) / support.roots
    rest = without_own(residual, fitted, smoother.diagonal(dim1=-2, dim2=-1))
    return support.features @ start.mT + rest


def _residual(support: SupportSet, start: Tensor) -> Tensor:
    return support.one_hot - 1 / support.num_classes - support.features @ start.mT


def anchored_from_moments(
    moments: Moments,
    label_embeddings: Tensor | None,
    *,
    penalty: float = 1.0,
    strength: float = 3.0,
    unit: float | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``anchored``."""
    start = torch.zeros_like(moments.sums) if label_embeddings is None else strength * label_embeddings
    bias = torch.zeros_like(moments.counts)
    if moments.number == 0:
        return start, bias
    classes = len(moments.counts)
    products = moments.sums.mT - moments.sums.sum(0).unsqueeze(-1) / classes - moments.second @ start.mT
    return start + solve_moments(moments.second, products, moments.number, penalty, unit), bias


ANCHORED = Estimator(
    "anchored", anchored, anchored_held_out, anchored_from_moments,
    grid=tuple({"penalty": a, "strength": b} for a in (0.3, 1.0, 3.0, 10.0) for b in (0.5, 1.0, 2.0, 4.0)),
    normalize=True, uses_label_embeddings=True,
)  # fmt: skip
