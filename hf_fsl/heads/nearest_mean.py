"""Nearest class mean, by Euclidean distance or by angle (Mensink et al. 2013; Snell et al. 2017, arXiv:1703.05175)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hf_fsl.heads.support import Support


def euclidean(support: Support, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """``-scale ‖z − μ_c‖²`` less ``-scale ‖z‖²``, which all classes share: W = 2·scale·μ, b = −scale·‖μ‖²."""
    means = support.means()
    return 2 * scale * means, -scale * means.square().sum(-1)


def angular(support: Support, *, scale: float = 10.0) -> tuple[Tensor, Tensor]:
    """``scale · cos(z, μ_c)`` over normalised features: W = scale·μ/‖μ‖, b = 0."""
    means = normalize(support.means(), dim=-1)
    return scale * means, torch.zeros_like(means[..., 0])


def euclidean_held_out(support: Support, *, scale: float = 1.0) -> Tensor:
    """Leave-one-out logits ``(..., n, C)``: in its own class, z is compared with the mean of the others.

    z − μ without z is (z − μ) · n_c / (n_c − 1). NaN for the only example of its class.
    """
    support = support.double()
    means = support.means()
    shared = support.features.square().sum(-1, keepdim=True)
    distances = shared - 2 * support.features @ means.mT + means.square().sum(-1).unsqueeze(-2)
    stretch = (support.counts / (support.counts - 1)).square().unsqueeze(-2)
    own = torch.where(support.counts.unsqueeze(-2) > 1, distances * stretch, torch.nan)
    return scale * (shared - torch.where(support.one_hot.bool(), own, distances))


def angular_held_out(support: Support, *, scale: float = 10.0) -> Tensor:
    """Leave-one-out logits ``(..., n, C)``; NaN for the only example of its class."""
    support = support.double()
    sums = support.one_hot.mT @ support.features
    cosines = support.features @ normalize(sums, dim=-1).mT
    rest = (support.one_hot @ sums) - support.features
    own = (support.features * normalize(rest, dim=-1)).sum(-1, keepdim=True)
    own = torch.where((support.one_hot @ support.counts.unsqueeze(-1)) > 1, own, torch.nan)
    return scale * torch.where(support.one_hot.bool(), own, cosines)
