"""Nearest class mean, by Euclidean distance or by angle (Mensink et al. 2013; Snell et al. 2017, arXiv:1703.05175)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hf_fsl.few_shot.heads.estimator import Estimator
from hf_fsl.few_shot.heads.support import Moments, SupportSet


def euclidean(support: SupportSet, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """``-scale ‖z − μ_c‖²`` less ``-scale ‖z‖²``, which all classes share: W = 2·scale·μ, b = −scale·‖μ‖²."""
    means = support.means()
    return 2 * scale * means, -scale * means.square().sum(-1)


def angular(support: SupportSet, *, scale: float = 10.0) -> tuple[Tensor, Tensor]:
    """``scale · cos(z, μ_c)`` over normalised features: W = scale·μ/‖μ‖, b = 0."""
    means = normalize(support.means(), dim=-1)
    return scale * means, torch.zeros_like(means[..., 0])


def euclidean_held_out(support: SupportSet, *, scale: float = 1.0) -> Tensor:
    """Leave-one-out logits ``(..., n, C)``: in its own class, z is compared with the mean of the others.

    z − μ without z, which counts as w, is (z − μ) · n_c / (n_c − w). NaN for the only example of its class.
    """
    support = support.double()
    means, counts = support.means(), support.own(support.counts)
    shared = support.features.square().sum(-1, keepdim=True)
    distances = shared - 2 * support.features @ means.mT + means.square().sum(-1).unsqueeze(-2)
    stretch = torch.where(support.alone, torch.nan, counts / (counts - support.weights)).square().unsqueeze(-1)
    return scale * (shared - torch.where(support.one_hot.bool(), distances * stretch, distances))


def angular_held_out(support: SupportSet, *, scale: float = 10.0) -> Tensor:
    """Leave-one-out logits ``(..., n, C)``; NaN for the only example of its class."""
    support = support.double()
    sums = support.sums()
    cosines = support.features @ normalize(sums, dim=-1).mT
    rest = support.own_rows(sums) - support.weights.unsqueeze(-1) * support.features
    own = (support.features * normalize(rest, dim=-1)).sum(-1, keepdim=True)
    own = torch.where(support.alone.unsqueeze(-1), torch.nan, own)
    return scale * torch.where(support.one_hot.bool(), own, cosines)


def euclidean_from_moments(moments: Moments, _: Tensor | None, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """``euclidean``."""
    means = moments.means()
    return 2 * scale * means, -scale * means.square().sum(-1)


def angular_from_moments(moments: Moments, _: Tensor | None, *, scale: float = 10.0) -> tuple[Tensor, Tensor]:
    """``angular``."""
    return scale * normalize(moments.sums, dim=-1), torch.zeros_like(moments.counts)


NEAREST_MEAN = Estimator("nearest_mean", euclidean, euclidean_held_out, euclidean_from_moments, compares_means=True)
COSINE = Estimator(
    "cosine", angular, angular_held_out, angular_from_moments, normalize=True, transform_is_fixed=True,
    compares_means=True,
)  # fmt: skip
CL2N = Estimator(
    "cl2n", euclidean, euclidean_held_out, euclidean_from_moments, centre=True, normalize=True,
    transform_is_fixed=True, compares_means=True,
)  # fmt: skip
