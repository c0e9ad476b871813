"""Linear discriminant analysis with a shrunk covariance (Ledoit & Wolf's target, a multiple of the identity)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_fsl.few_shot.heads.estimator import Estimator
from hf_fsl.few_shot.heads.support import HeadError, Moments, SupportSet, or_one, penalised

_NOTHING = 1e-20
"""Within-class scatter below this part of the features' mean square is rounding, not spread."""
SHRINKAGES = (1.0, 0.9, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
"""Down to next to none: where a tower tells classes apart in directions of little variance, and there are hundreds of
examples, that is what logistic regression gains over a strongly shrunk covariance."""


def shrunk_lda(support: SupportSet, *, shrinkage: float = 0.5, class_prior: str = "uniform") -> tuple[Tensor, Tensor]:
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


def shrunk_lda_held_out(support: SupportSet, *, shrinkage: float = 0.5, class_prior: str = "uniform") -> Tensor:
    """Leave-one-out logits ``(..., n, C)``, less their mean over the classes, as the head's.

    The ridge λ tr(S)/D and π are those of the others, too. NaN for the only support of a class.
    """
    check_settings(shrinkage, class_prior)
    support = support.double()
    forms = SpectralScatter.of(support).held_out(shrinkage)
    log_priors = log_prior(support.without(), class_prior)
    logits = forms.products - 0.5 * forms.norms + log_priors
    return torch.where(forms.alone, torch.nan, logits - logits.mean(-1, keepdim=True))


@dataclass(frozen=True)
class HeldOutForms:
    """For each support z, with μ and Σ of the supports without it."""

    products: Tensor
    """zᵀΣ⁻¹μ_c ``(..., n, C)``."""
    norms: Tensor
    """μ_cᵀΣ⁻¹μ_c ``(..., n, C)``."""
    spread: Tensor
    """tr(S)/D ``(..., n, 1)``; 1 where the scatter is nothing, and Σ the identity."""
    alone: Tensor
    """Whether it is the only one of its class, so that μ_y is not what it says: ``(..., n, 1)``."""


@dataclass(frozen=True)
class Spectrum:
    """The scatter within the classes, Z̃ᵀZ̃."""

    eigenvalues: Tensor
    """Those that can differ from 0: ``(..., r)``."""
    basis: Tensor
    """The eigenvectors ``(..., D, r)``."""
    total: Tensor
    """The supports' sum of squares ``(...)``, against which a scatter is nothing or not."""

    @classmethod
    def of_rows(cls, deviations: Tensor, total: Tensor) -> Spectrum:
        """Of Z̃ ``(..., n, D)``."""
        count, dimension = deviations.shape[-2:]
        if count >= dimension:
            return cls.of_matrix(deviations.mT @ deviations, total)
        values, left = torch.linalg.eigh(deviations @ deviations.mT)
        real = values > 1e-12 * values[..., -1:].clamp(min=1e-300)
        inverse = torch.where(real, values, torch.ones_like(values)).rsqrt() * real
        return cls(values.clamp(min=0), deviations.mT @ left * inverse.unsqueeze(-2), total)

    @classmethod
    def of_matrix(cls, scatter: Tensor, total: Tensor) -> Spectrum:
        """Of Z̃ᵀZ̃ ``(..., D, D)``."""
        values, basis = torch.linalg.eigh(scatter)
        return cls(values.clamp(min=0), basis, total)

    def relative(self) -> Tensor:
        """Eigenvalues of S D/tr(S) ``(..., r)``: 1 on average over all D; 0 where the scatter is nothing."""
        squares = self.eigenvalues.sum(-1)
        factor = self.basis.shape[-2] / squares.clamp(min=1e-300)
        return (
            torch.where(is_nothing(squares, self.total), torch.zeros_like(squares), factor).unsqueeze(-1)
            * self.eigenvalues
        )

    def even(self, shrinkage: float) -> Tensor:
        """Factor ``(...)`` of M = ((1−λ) S D/tr(S) + λI)⁻¹ that leaves the mean square within the classes as it is.

        1 where the scatter is nothing, and M the identity.
        """
        relative = self.relative()
        total = relative.sum(-1)
        left = (relative / ((1 - shrinkage) * relative + shrinkage)).sum(-1)
        return torch.where(total > 0, total / left.clamp(min=1e-300), torch.ones_like(total))


@dataclass(frozen=True)
class _Products:
    """Inner products of supports z, their deviations d and the class means μ, under some form."""

    z_mean: Tensor
    """``(..., n, C)``."""
    d_mean: Tensor
    """``(..., n, C)``."""
    mean_mean: Tensor
    """Of each class ``(..., 1, C)``, or ``(..., n, C)`` where the form is another for each support."""
    d_d: Tensor
    """``(..., n, 1)``."""
    d_z: Tensor
    """``(..., n, 1)``."""

    @classmethod
    def of(cls, z: Tensor, d: Tensor, means: Tensor, form: Tensor | None = None) -> _Products:
        """Under the diagonal ``form`` ``(..., n, D)``, one for each support; None: the identity."""
        z_form, d_form = (z, d) if form is None else (z * form, d * form)
        squares = means.square()
        return cls(
            z_form @ means.mT,
            d_form @ means.mT,
            squares.sum(-1).unsqueeze(-2) if form is None else form @ squares.mT,
            (d_form * d).sum(-1, keepdim=True),
            (d_form * z).sum(-1, keepdim=True),
        )

    def plus(self, other: _Products, factor: Tensor) -> _Products:
        """These and the other's times ``factor`` ``(..., n, 1)``."""
        return _Products(
            self.z_mean + factor * other.z_mean,
            self.d_mean + factor * other.d_mean,
            self.mean_mean + factor * other.mean_mean,
            self.d_d + factor * other.d_d,
            self.d_z + factor * other.d_z,
        )


@dataclass(frozen=True)
class SpectralScatter:
    """What does not depend on the shrinkage: one eigendecomposition serves a whole grid.

    Without support i, which counts as w and whose deviation from its class mean is d, class y's mean is
    μ_y − w d/(n_y − w) and the scatter Z̃ᵀZ̃ − w n_y/(n_y − w) d dᵀ. In the eigenvectors of Z̃ᵀZ̃ every inverse is a
    diagonal and a rank-one term (Sherman & Morrison 1950).
    """

    support: SupportSet
    """Those to leave out, in float64."""
    deviations: Tensor
    """z − μ_y ``(..., n, D)``."""
    squares: Tensor
    """Sum of squares within the classes ``(...)``, of all supports."""
    number: Tensor
    """``(...)``, of all."""
    spectrum: Spectrum
    rotated: tuple[Tensor, Tensor, Tensor]
    """Features ``(..., n, r)``, deviations ``(..., n, r)`` and class means ``(..., C, r)`` in the eigenvectors."""
    flat: _Products
    """Of the same in all D dimensions."""

    @classmethod
    def of(cls, support: SupportSet, rows: Tensor | None = None) -> SpectralScatter:
        """Of supports in float64; only ``rows`` ``(m,)`` of them are to be left out, None: each."""
        means, number = support.means(), support.number
        deviations = support.features - support.own_rows(means)
        spectrum = Spectrum.of_rows(deviations * support.roots, support.squares().sum(-1))
        squares = (support.weights * deviations.square().sum(-1)).sum(-1)
        if rows is not None:
            support, deviations = support.at(rows), deviations[rows]
        basis = spectrum.basis
        parts = (support.features, deviations, means)
        rotated = (parts[0] @ basis, parts[1] @ basis, parts[2] @ basis)
        return cls(support, deviations, squares, number, spectrum, rotated, _Products.of(*parts))

    def squares_without(self) -> Tensor:
        """Sum of squares within the classes without each support ``(..., n)``."""
        return (self.squares.unsqueeze(-1) - self._lost() * self.deviations.square().sum(-1)).clamp(min=0)

    def _others(self) -> Tensor:
        """n_y − w ``(..., n)``; 1 for the only one of a class, which does not deviate from itself."""
        return or_one(self.support.own(self.support.counts) - self.support.weights)

    def _lost(self) -> Tensor:
        """w n_y/(n_y − w) ``(..., n)``."""
        return self.support.weights * self.support.own(self.support.counts) / self._others()

    def held_out(self, shrinkage: float) -> HeldOutForms:
        """Products and norms under Σ = (1−λ) S + λ tr(S)/D I."""
        support, dimension = self.support, self.deviations.shape[-1]
        rest = self.number.unsqueeze(-1) - support.weights
        trace = self.squares_without() / rest
        total = (self.spectrum.total.unsqueeze(-1) - support.squares()) / rest
        ridge, kept = shrunk_scales(trace, total, dimension, shrinkage)
        scaled = kept / rest
        diagonal = 1 / (scaled.unsqueeze(-1) * self.spectrum.eigenvalues.unsqueeze(-2) + ridge.unsqueeze(-1))
        # What an eigenvector weighs beyond the directions outside all of them, which weigh 1 / ridge.
        form = _Products.of(*self.rotated, diagonal - 1 / ridge.unsqueeze(-1)).plus(self.flat, 1 / ridge.unsqueeze(-1))
        dd, dz, mean_d = form.d_d, form.d_z, form.d_mean
        # (A − s d dᵀ)⁻¹ = A⁻¹ + g A⁻¹d dᵀA⁻¹, with g = s / (1 − s dᵀA⁻¹d).
        strength = (scaled * self._lost()).unsqueeze(-1)
        gain = strength / (1 - strength * dd)
        own = support.one_hot * (support.weights / self._others()).unsqueeze(-1)
        whole = 1 + gain * dd
        products = form.z_mean + gain * mean_d * dz - own * dz * whole
        norms = form.mean_mean + gain * mean_d.square() - 2 * own * mean_d * whole + own.square() * dd * whole
        spread = torch.where(is_nothing(trace, total), torch.ones_like(trace), trace / dimension)
        return HeldOutForms(products, norms, spread.unsqueeze(-1), support.alone.unsqueeze(-1))


def lda_from_moments(
    moments: Moments, label_embeddings: Tensor | None, *, shrinkage: float = 0.5, class_prior: str = "uniform"
) -> tuple[Tensor, Tensor]:
    """``shrunk_lda``."""
    check_settings(shrinkage, class_prior)
    means, covariance = moments.means(), moments.scatter() / moments.number
    dimension = len(covariance)
    total = moments.second.diagonal().sum() / moments.number
    # What is left of one example a class by rounding is about as small as the second moments' last digit.
    trace = covariance.diagonal().sum()
    trace = torch.where(trace <= 1e-12 * total, torch.zeros_like(trace), trace)
    ridge, kept = shrunk_scales(trace, total, dimension, shrinkage)
    weight = torch.linalg.solve(penalised(kept * covariance, ridge), means.mT).mT
    return from_weight(weight, means, log_prior(moments.counts, class_prior))


LDA = Estimator(
    "lda", shrunk_lda, shrunk_lda_held_out, lda_from_moments, grid=tuple({"shrinkage": one} for one in SHRINKAGES[1:]),
    compares_means=True,
)  # fmt: skip
