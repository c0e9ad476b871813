"""Leave-one-out for shrunk LDA, in closed form: a downdate of the scatter by rank one, in its own eigenbasis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_fsl.heads.lda import check_settings, log_prior, shrunk_scales
from hf_fsl.heads.support import Support


def shrunk_lda_held_out(support: Support, *, shrinkage: float = 0.5, class_prior: str = "uniform") -> Tensor:
    """Leave-one-out logits ``(..., n, C)``, less their mean over the classes, as the head's.

    Without support i, whose deviation from its class mean is d, class y's mean is μ_y − d/(n_y − 1) and the scatter
    matrix Z̃ᵀZ̃ − n_y/(n_y − 1) d dᵀ. With the eigenvectors of Z̃ᵀZ̃ every inverse is a diagonal and a rank-one term
    (Sherman & Morrison 1950). The ridge λ tr(S)/D is that of the others, too. NaN for the only support of a class.
    """
    check_settings(shrinkage, class_prior)
    support = support.double()
    log_priors = log_prior(support.counts.unsqueeze(-2) - support.one_hot, class_prior)
    return SpectralLDA.of(support).held_out(shrinkage, log_priors)


@dataclass(frozen=True)
class SpectralLDA:
    """What does not depend on the shrinkage: one eigendecomposition serves a whole grid."""

    support: Support
    deviations: Tensor
    """Z̃ ``(..., n, D)``."""
    eigenvalues: Tensor
    """Of Z̃ᵀZ̃, those that can differ from 0: ``(..., r)``."""
    means: tuple[Tensor, Tensor]
    """Class means ``(..., C, D)``, and the same in the eigenvectors ``(..., C, r)``."""
    rotated: tuple[Tensor, Tensor]
    """Supports and Z̃ in the eigenvectors, each ``(..., n, r)``."""

    @classmethod
    def of(cls, support: Support) -> SpectralLDA:
        means = support.means()
        deviations = support.features - support.one_hot @ means
        count, dimension = deviations.shape[-2:]
        if count < dimension:
            values, left = torch.linalg.eigh(deviations @ deviations.mT)
            values = values.clamp(min=0)
            real = values > 1e-12 * values[..., -1:].clamp(min=1e-300)
            inverse = torch.where(real, values, torch.ones_like(values)).rsqrt() * real
            basis = deviations.mT @ left * inverse.unsqueeze(-2)
        else:
            values, basis = torch.linalg.eigh(deviations.mT @ deviations)
            values = values.clamp(min=0)
        return cls(
            support,
            deviations,
            values,
            (means, means @ basis),
            (support.features @ basis, deviations @ basis),
        )

    def held_out(self, shrinkage: float, log_priors: Tensor) -> Tensor:
        """Leave-one-out logits ``(..., n, C)``, less their mean over the classes; log π ``(..., n, C)``."""
        support, deviations = self.support, self.deviations
        count = deviations.shape[-2]
        own_count = support.one_hot @ support.counts.unsqueeze(-1)
        alone = own_count <= 1
        others = (own_count - 1).clamp(min=1)
        down = (own_count / others).squeeze(-1)
        squares = deviations.square().sum(-1)
        trace = ((squares.sum(-1, keepdim=True) - down * squares) / (count - 1)).clamp(min=0)
        total = support.features.square().sum(-1)
        total = (total.sum(-1, keepdim=True) - total) / (count - 1)
        ridge, kept = shrunk_scales(trace, total, deviations.shape[-1], shrinkage)
        scaled = kept / (count - 1)
        weights = 1 / (scaled.unsqueeze(-1) * self.eigenvalues.unsqueeze(-2) + ridge.unsqueeze(-1))
        form = _Form(weights, 1 / ridge)
        features, rotated, apart = support.features, *self.rotated
        means, mean_rotated = self.means
        mean_feature = form.rows_with(mean_rotated, rotated, means, features)
        mean_apart = form.rows_with(mean_rotated, apart, means, deviations)
        mean_mean = form.squares(mean_rotated, means)
        apart_apart = form.own(apart, apart, deviations, deviations)
        apart_feature = form.own(apart, rotated, deviations, features)
        # Sherman-Morrison: (A - s d dᵀ)⁻¹ = A⁻¹ + s A⁻¹d dᵀA⁻¹ / (1 - s dᵀA⁻¹d).
        strength = scaled * down
        gain = (strength / (1 - strength * apart_apart)).unsqueeze(-1)
        down_apart = apart_apart.unsqueeze(-1) * (1 + gain * apart_apart.unsqueeze(-1))
        down_feature = apart_feature.unsqueeze(-1) * (1 + gain * apart_apart.unsqueeze(-1))
        down_mean_apart = mean_apart * (1 + gain * apart_apart.unsqueeze(-1))
        own = support.one_hot / others
        products = mean_feature + gain * mean_apart * apart_feature.unsqueeze(-1) - own * down_feature
        norms = mean_mean + gain * mean_apart.square() - 2 * own * down_mean_apart + own.square() * down_apart
        logits = products - 0.5 * norms + log_priors
        logits = logits - logits.mean(-1, keepdim=True)
        return torch.where(alone, torch.nan, logits)


@dataclass(frozen=True)
class _Form:
    """For each support i the form pᵀA_i⁻¹q, A_i diagonal in the eigenvectors and a multiple of I beside them."""

    weights: Tensor
    """``(..., n, r)``."""
    outside: Tensor
    """``(..., n)``."""

    def rows_with(self, classes: Tensor, rows: Tensor, full_classes: Tensor, full_rows: Tensor) -> Tensor:
        """Each class with each row: ``(..., n, C)``."""
        excess = self.weights - self.outside.unsqueeze(-1)
        return (rows * excess) @ classes.mT + self.outside.unsqueeze(-1) * (full_rows @ full_classes.mT)

    def squares(self, classes: Tensor, full_classes: Tensor) -> Tensor:
        """Each class with itself, for each row: ``(..., n, C)``."""
        excess = self.weights - self.outside.unsqueeze(-1)
        lengths = full_classes.square().sum(-1).unsqueeze(-2)
        return excess @ classes.square().mT + self.outside.unsqueeze(-1) * lengths

    def own(self, left: Tensor, right: Tensor, full_left: Tensor, full_right: Tensor) -> Tensor:
        """Row i of one with row i of the other: ``(..., n)``."""
        excess = self.weights - self.outside.unsqueeze(-1)
        return (left * excess * right).sum(-1) + self.outside * (full_left * full_right).sum(-1)
