"""Ridge regression onto one-hot labels, intercept unpenalised, with its closed-form leave-one-out."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_fsl.heads.errors import HeadError
from hf_fsl.heads.support import Support


def ridge(support: Support, *, penalty: float = 1.0, unit: float | Tensor | None = None) -> tuple[Tensor, Tensor]:
    """W = (Z̃ᵀZ̃ + λI)⁻¹ Z̃ᵀỸ and b = ȳ − W z̄, with Z̃, Ỹ less their means over the supports.

    Args:
        penalty: λ, counted in ``unit``.
        unit: ``(...)``; None: the mean squared length of Z̃'s rows, so that a penalty means the same for embeddings
            of any scale.

    Raises:
        HeadError: a penalty that is not above 0.
    """
    features, targets, centre, level = centred(support.double())
    strength = absolute(penalty, unit, features)
    weight = solve(features, targets, strength)
    return weight, level - (weight @ centre.unsqueeze(-1)).squeeze(-1)


def ridge_held_out(support: Support, *, penalty: float = 1.0, unit: float | Tensor | None = None) -> Tensor:
    """Leave-one-out logits ``(..., n, C)``: y − (y − f) / (1 − h_ii), h_ii with the 1/n of the intercept (PRESS).

    The penalty's unit is that of all supports.
    """
    support = support.double()
    features, targets, _, level = centred(support)
    smoother = hat(features, absolute(penalty, unit, features))
    fitted = smoother @ targets + level.unsqueeze(-2)
    return without_own(support.one_hot, fitted, smoother.diagonal(dim1=-2, dim2=-1) + 1 / features.shape[-2])


def centred(support: Support) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Z̃ ``(..., n, D)``, Ỹ ``(..., n, C)``, and their means z̄ ``(..., D)``, ȳ ``(..., C)``."""
    centre, level = support.features.mean(-2), support.one_hot.mean(-2)
    return support.features - centre.unsqueeze(-2), support.one_hot - level.unsqueeze(-2), centre, level


def absolute(penalty: float, unit: float | Tensor | None, features: Tensor) -> Tensor:
    """The penalty ``(...)`` in the features' own squared units.

    Raises:
        HeadError: a penalty that is not above 0.
    """
    if not penalty > 0:
        raise HeadError(f"penalty must be above 0, got {penalty}.")
    if unit is None:
        unit = features.square().sum(-1).mean(-1)
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


def penalised(matrix: Tensor, strength: Tensor) -> Tensor:
    """A square matrix ``(..., k, k)`` plus ``strength`` ``(...)`` times the identity."""
    size = matrix.shape[-1]
    identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    return matrix + strength.expand(matrix.shape[:-2])[..., None, None] * identity
