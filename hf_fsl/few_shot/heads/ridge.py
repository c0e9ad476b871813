"""Ridge regression onto one-hot labels, intercept unpenalised, with its closed-form leave-one-out."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_fsl.few_shot.heads.estimator import Estimator
from hf_fsl.few_shot.heads.support import HeadError, Moments, SupportSet, penalised


def ridge(support: SupportSet, *, penalty: float = 1.0, unit: float | Tensor | None = None) -> tuple[Tensor, Tensor]:
    """W = (Z̃ᵀZ̃ + λI)⁻¹ Z̃ᵀỸ and b = ȳ − W z̄, with Z̃, Ỹ less their means over the supports, times the weights' roots.

    Args:
        penalty: λ, counted in ``unit``.
        unit: ``(...)``; None: the mean squared length of Z̃'s rows, so that a penalty means the same for embeddings
            of any scale.

    Raises:
        HeadError: a penalty that is not above 0.
    """
    support = support.double()
    features, targets, centre, level = centred(support)
    strength = absolute(penalty, unit, features, support.number)
    weight = solve(features, targets, strength)
    return weight, level - (weight @ centre.unsqueeze(-1)).squeeze(-1)


def ridge_held_out(support: SupportSet, *, penalty: float = 1.0, unit: float | Tensor | None = None) -> Tensor:
    """Leave-one-out logits ``(..., n, C)``: y − (y − f) / (1 − h_ii), h_ii with the w_i/n of the intercept (PRESS).

    The penalty's unit is that of all supports.
    """
    support = support.double()
    features, targets, _, level = centred(support)
    smoother = hat(features, absolute(penalty, unit, features, support.number))
    fitted = smoother @ targets / support.roots + level.unsqueeze(-2)
    intercept = support.weights / support.number.unsqueeze(-1)
    return without_own(support.one_hot, fitted, smoother.diagonal(dim1=-2, dim2=-1) + intercept)


def centred(support: SupportSet) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Z̃ ``(..., n, D)``, Ỹ ``(..., n, C)``, and the means z̄ ``(..., D)``, ȳ ``(..., C)``."""
    shares = (support.weights / support.number.unsqueeze(-1)).unsqueeze(-2)
    centre, level = shares @ support.features, shares @ support.one_hot
    features, targets = (support.features - centre) * support.roots, (support.one_hot - level) * support.roots
    return features, targets, centre.squeeze(-2), level.squeeze(-2)


def absolute(penalty: float, unit: float | Tensor | None, features: Tensor, number: Tensor) -> Tensor:
    """The penalty ``(...)`` in the squared units of features ``(..., n, D)`` that count as ``number`` ``(...)``.

    Raises:
        HeadError: a penalty that is not above 0.
    """
    if not penalty > 0:
        raise HeadError(f"penalty must be above 0, got {penalty}.")
    if unit is None:
        unit = features.square().sum((-1, -2)) / number
        unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    return penalty * torch.as_tensor(unit, dtype=features.dtype, device=features.device)


def solve(features: Tensor, targets: Tensor, strength: Tensor) -> Tensor:
    """W ``(..., C, D)`` of features ``(..., n, D)`` and targets ``(..., n, C)``, in the smaller of n and D."""
    count, dimension = features.shape[-2:]
    if count < dimension:
        return torch.linalg.solve(penalised(features @ features.mT, strength), targets).mT @ features
    return torch.linalg.solve(penalised(features.mT @ features, strength), features.mT @ targets).mT


def hat(features: Tensor, strength: Tensor) -> Tensor:
    """H ``(..., n, n)`` = K (K + λI)⁻¹, which takes targets to what is fitted at the supports."""
    count, dimension = features.shape[-2:]
    if count < dimension:
        gram = features @ features.mT
        return torch.linalg.solve(penalised(gram, strength), gram)
    return features @ torch.linalg.solve(penalised(features.mT @ features, strength), features.mT)


def without_own(targets: Tensor, fitted: Tensor, leverage: Tensor) -> Tensor:
    """What a linear smoother predicts at each support when fitted without it (Cook 1977; Allen's PRESS, 1974)."""
    return targets - (targets - fitted) / (1 - leverage).unsqueeze(-1)


def solve_moments(
    squares: Tensor, products: Tensor, number: Tensor, penalty: float, unit: float | Tensor | None
) -> Tensor:
    mean = squares.diagonal().sum() / number
    scale = torch.as_tensor(unit, dtype=torch.float64) if unit is not None else torch.where(mean > 0, mean, 1.0)
    return torch.linalg.solve(penalised(squares, penalty * scale), products).mT


def ridge_from_moments(
    moments: Moments, label_embeddings: Tensor | None, *, penalty: float = 1.0, unit: float | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``ridge``."""
    number = moments.number
    centre, level = moments.sums.sum(0) / number, moments.counts / number
    squares = moments.second - number * torch.outer(centre, centre)
    products = moments.sums.mT - number * torch.outer(centre, level)
    weight = solve_moments(squares, products, number, penalty, unit)
    return weight, level - weight @ centre


RIDGE = Estimator(
    "ridge", ridge, ridge_held_out, ridge_from_moments,
    grid=tuple({"penalty": penalty} for penalty in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)),
)  # fmt: skip
