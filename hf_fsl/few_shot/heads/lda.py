"""Linear discriminant analysis with a shrunk covariance (Ledoit & Wolf's target, a multiple of the identity)."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_fsl.few_shot.heads.errors import HeadError
from hf_fsl.few_shot.heads.ridge import penalised
from hf_fsl.few_shot.heads.support import Support

_NOTHING = 1e-20
"""Within-class scatter below this part of the features' mean square is rounding, not spread."""


def shrunk_lda(support: Support, *, shrinkage: float = 0.5, class_prior: str = "uniform") -> tuple[Tensor, Tensor]:
    """W = μ Σ⁻¹ and b_c = −½ μ_cᵀ Σ⁻¹ μ_c + log π_c, with Σ = (1−λ) S + λ tr(S)/D I.

    S = Z̃ᵀZ̃/n is the scatter Z̃ of the supports about their class means. Where it is nothing, as with one example a
    class, Σ is the identity, and this is the nearest mean. What all classes share is taken from W and b, which no
    softmax sees and float32 would feel. With fewer supports than dimensions the n × n dual is solved instead.

    Args:
        shrinkage: λ in (0, 1].
        class_prior: π, "uniform" or "counts".

    Raises:
        HeadError: another shrinkage or class_prior.
    """
    check_settings(shrinkage, class_prior)
    support = support.double()
    means = support.means()
    scatter = (support.features - support.own_rows(means)) * support.roots
    dimension, count = scatter.shape[-1], support.number
    total = support.squares().sum(-1) / count
    ridge, kept = shrunk_scales(scatter.square().sum((-1, -2)) / count, total, dimension, shrinkage)
    if scatter.shape[-2] < dimension:
        gram = penalised(kept[..., None, None] * scatter @ scatter.mT, count * ridge)
        inner = torch.linalg.solve(gram, scatter @ means.mT)
        weight = (means - kept[..., None, None] * (inner.mT @ scatter)) / ridge[..., None, None]
    else:
        covariance = penalised((kept / count)[..., None, None] * scatter.mT @ scatter, ridge)
        weight = torch.linalg.solve(covariance, means.mT).mT
    return from_weight(weight, means, log_prior(support.counts, class_prior))


def from_weight(weight: Tensor, means: Tensor, log_priors: Tensor) -> tuple[Tensor, Tensor]:
    """μ Σ⁻¹, means ``(..., C, D)`` and log π -> W and b without what the classes share."""
    bias = log_priors - 0.5 * (weight * means).sum(-1)
    return weight - weight.mean(-2, keepdim=True), bias - bias.mean(-1, keepdim=True)


def shrunk_scales(trace: Tensor, total: Tensor, dimension: int, shrinkage: float) -> tuple[Tensor, Tensor]:
    """tr(S) and the features' mean square, ``(...)`` -> what of the identity and of S is in Σ, each ``(...)``."""
    nothing = is_nothing(trace, total)
    ridge = torch.where(nothing, torch.ones_like(trace), shrinkage * trace / dimension)
    return ridge, torch.where(nothing, torch.zeros_like(trace), torch.full_like(trace, 1 - shrinkage))


def is_nothing(trace: Tensor, total: Tensor) -> Tensor:
    """Whether a scatter is rounding only, as with one example a class; see ``shrunk_scales``."""
    return trace <= _NOTHING * total


def check_settings(shrinkage: float, class_prior: str) -> None:
    """Raises:
    HeadError: settings out of range.
    """
    if not 0 < shrinkage <= 1:
        raise HeadError(f"LDA's shrinkage lies above 0 and not above 1, got {shrinkage}.")
    if class_prior not in ("uniform", "counts"):
        raise HeadError(f"class_prior is 'uniform' or 'counts', got {class_prior!r}.")


def log_prior(counts: Tensor, class_prior: str) -> Tensor:
    """log π ``(..., C)`` of class counts; the uniform one is left at 0."""
    if class_prior == "uniform":
        return torch.zeros_like(counts)
    return (counts / counts.sum(-1, keepdim=True)).log()
