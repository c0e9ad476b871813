"""LDA beside the label names, from no example of a class to many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hf_fsl.few_shot.heads.estimator import Estimator
from hf_fsl.few_shot.heads.lda import SpectralScatter, Spectrum, check_settings
from hf_fsl.few_shot.heads.support import HeadError, Moments, SupportSet, or_one

Metric = float | Sequence[tuple[float, float | Tensor]]
"""λ; or pairs of λ and the factor of its M, for their sum."""


@dataclass(frozen=True)
class Frame:
    """What is read off the supports once and then held: where the classes lie around, and how far out they lie."""

    middle: Tensor
    """Mean of the class means ``(..., D)``."""
    unit: Tensor
    """Mean squared distance of the supports from it ``(...)``."""

    @classmethod
    def of(cls, support: SupportSet, middle: Tensor | None = None, unit: float | Tensor | None = None) -> Frame:
        """Those given; None: those of the supports."""
        features = support.features
        if middle is None:
            present = (support.counts > 0).to(features.dtype)
            middle = (present.unsqueeze(-2) @ support.means()).squeeze(-2) / present.sum(-1, keepdim=True).clamp(min=1)
        if unit is None:
            unit = or_one(support.shifted(middle).squares().sum(-1) / or_one(support.number))
        return cls(middle.to(features), torch.as_tensor(unit, dtype=features.dtype, device=features.device))


def named_lda(
    support: SupportSet,
    *,
    shrinkage: Metric = 1.0,
    pseudo_count: float = 4.0,
    name_weight: float = 1.5,
    middle: Tensor | None = None,
    unit: float | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Two opinions of each class, its examples' and its name's, each weighed by how many examples there are.

    About the middle m of the classes, with class means x̄_c = m + d_c, counts n_c, and label embeddings e_c less their
    mean, brought to the supports' own length:

        logit_c(z) = [w_c ((z−m)ᵀM d_c − ½ d_cᵀM d_c + ½ σ²/n_c) + r_c (z−m)ᵀe_c − ½ r_c² e_cᵀe_c] / unit

    with w_c = n_c/(n_c + κ) and r_c = ρ/(n_c + κ), as in the posterior mean w_c d_c + r_c e_c of a Gaussian around the
    name. Against the examples a name weighs as much as ρ of them, however many there are; without any, the name
    remains. σ², the unbiased mean square within the classes, takes from the length of d_c what is noise in it, or a
    class of few examples would be named too seldom (Moran & Murphy 1979). M ∝ ((1−λ) S D/tr(S) + λI)⁻¹ is LDA's
    metric: with equal counts and ρ = 0 this is LDA. It weighs examples only: how they spread within a class says
    nothing of how names lie. M leaves the mean square within the classes as it is, so that ρ means the same for any
    λ. With one example a class, M = I.

    Args:
        shrinkage: λ in (0, 1], as in ``shrunk_lda``; or pairs of λ and factor, for M as a sum.
        pseudo_count: κ: how many examples it takes to be heeded as much as half of what many would be.
        name_weight: ρ; without label embeddings it has no effect.
        middle: m ``(..., D)``; None: the mean of the class means.
        unit: ``(...)``; None: the mean squared distance of the supports from m.

    Raises:
        HeadError: a setting out of range.
    """
    check_named(shrinkage, pseudo_count, name_weight)
    support = support.double()
    frame = Frame.of(support, middle, unit)
    support = support.shifted(frame.middle)
    deviations = (support.features - support.own_rows(support.means())) * support.roots
    spectrum = Spectrum.of_rows(deviations, support.squares().sum(-1))
    names = label_directions(support.label_embeddings, frame)
    return fitted(support.means(), support.counts, names, frame, spectrum, shrinkage, pseudo_count, name_weight)


def fitted(
    means: Tensor,
    counts: Tensor,
    names: Tensor | None,
    frame: Frame,
    spectrum: Spectrum,
    shrinkage: Metric,
    pseudo_count: float,
    name_weight: float,
) -> tuple[Tensor, Tensor]:
    """W and b.

    Args:
        means: x̄_c − m ``(..., C, D)``.
        counts: n_c ``(..., C)``.
        names: e_c ``(..., C, D)``.
    """
    w, r = counts / (counts + pseudo_count), name_weight / (counts + pseudo_count)
    examples = whiten(spectrum, means, shrinkage)
    noise = unbiased(spectrum.eigenvalues.sum(-1, keepdim=True), counts) / or_one(counts)
    weight, bias = w.unsqueeze(-1) * examples, -0.5 * w * ((examples * means).sum(-1) - noise)
    if names is not None:
        weight, bias = weight + r.unsqueeze(-1) * names, bias - 0.5 * r.square() * names.square().sum(-1)
    weight, bias = weight / frame.unit[..., None, None], bias / frame.unit.unsqueeze(-1)
    return weight, bias - (weight @ frame.middle.unsqueeze(-1)).squeeze(-1)


def unbiased(squares: Tensor, counts: Tensor) -> Tensor:
    """Sum of squares within the classes ``(..., 1)``, counts ``(..., C)`` -> mean square σ² ``(..., 1)``.

    Over n − C, as the class means are estimated, too; 0 with one example a class, where there are no squares.
    """
    freedom = counts.sum(-1, keepdim=True) - (counts > 0).sum(-1, keepdim=True)
    return squares / freedom.clamp(min=1)


def named_lda_held_out(
    support: SupportSet,
    *,
    shrinkage: Metric = 1.0,
    pseudo_count: float = 4.0,
    name_weight: float = 1.5,
    middle: Tensor | None = None,
    unit: float | Tensor | None = None,
) -> Tensor:
    """Leave-one-out logits ``(..., n, C)``: middle, unit and M's factor are held. NaN for the only one of a class."""
    check_named(shrinkage, pseudo_count, name_weight)
    held_out = NamedHeldOut.of(support, middle, unit)
    return held_out.logits(held_out.of_metric(shrinkage), pseudo_count, name_weight)


@dataclass(frozen=True)
class NamedHeldOut:
    """Leave-one-out for a whole grid of settings: what each of them costs is elementwise over ``(n, C)``."""

    support: SupportSet
    """Those left out, about the middle, float64."""
    frame: Frame
    scatter: SpectralScatter
    names: Tensor
    """(z−m)ᵀe_c ``(..., n, C)``, in units of ``unit``, as all that follow."""
    lengths: Tensor
    """‖e_c‖² ``(..., 1, C)``."""
    noise: Tensor
    """σ²/n_c without the support: ``(..., n, C)``."""

    @classmethod
    def of(
        cls,
        support: SupportSet,
        middle: Tensor | None = None,
        unit: float | Tensor | None = None,
        rows: Tensor | None = None,
    ) -> NamedHeldOut:
        """Only ``rows`` ``(m,)`` of the supports are left out, one at a time; None: each."""
        support = support.double()
        frame = Frame.of(support, middle, unit)
        support = support.shifted(frame.middle)
        names = label_directions(support.label_embeddings, frame)
        names = torch.zeros_like(support.means()) if names is None else names
        each = frame.unit[..., None, None]
        lengths = names.square().sum(-1).unsqueeze(-2)
        scatter = SpectralScatter.of(support, rows)
        support = scatter.support
        rest = support.without()
        noise = unbiased(scatter.squares_without().unsqueeze(-1), rest) / or_one(rest)
        return cls(support, frame, scatter, support.features @ names.mT / each, lengths / each, noise / each)

    def of_metric(self, shrinkage: Metric) -> tuple[Tensor, Tensor]:
        """(z−m)ᵀM(x̄_c − m) and (x̄_c − m)ᵀM(x̄_c − m), each ``(..., n, C)`` and without the support."""
        products = norms = torch.zeros_like(self.names)
        for one, factor in _pairs(self.scatter.spectrum, shrinkage):
            forms = self.scatter.held_out(one)
            each = (factor / self.frame.unit)[..., None, None] * forms.spread
            products, norms = products + forms.products * each, norms + forms.norms * each
        return products, norms

    def logits(self, metric: tuple[Tensor, Tensor], pseudo_count: float, name_weight: float | Tensor) -> Tensor:
        """Leave-one-out logits ``(..., n, C)``; NaN for the only support of a class.

        Args:
            name_weight: one, or several ``(..., 1, 1)``.
        """
        rest = self.support.without()
        w, r = rest / (rest + pseudo_count), name_weight / (rest + pseudo_count)
        logits = w * (metric[0] - 0.5 * (metric[1] - self.noise)) + r * self.names - 0.5 * r.square() * self.lengths
        return torch.where(self.support.alone.unsqueeze(-1), torch.nan, logits)


def label_directions(label_embeddings: Tensor | None, frame: Frame) -> Tensor | None:
    """e ``(..., C, D)``: label embeddings less their mean, as long as the supports are from the middle."""
    return (
        None if label_embeddings is None else normalize(label_embeddings, dim=-1) * frame.unit.sqrt()[..., None, None]
    )


def whiten(spectrum: Spectrum, rows: Tensor, shrinkage: Metric) -> Tensor:
    """M u ``(..., C, D)`` of rows u."""
    relative, basis = spectrum.relative(), spectrum.basis
    result = torch.zeros_like(rows)
    for one, factor in _pairs(spectrum, shrinkage):
        # In the eigenvectors a diagonal, beside them I/λ; where the scatter is nothing, I.
        flat = relative.sum(-1) == 0
        beside = torch.where(flat, factor, factor / one)[..., None, None]
        inside = torch.where(flat, torch.zeros_like(factor), factor)[..., None, None]
        diagonal = inside * (1 / ((1 - one) * relative + one) - 1 / one).unsqueeze(-2)
        result = result + beside * rows + ((rows @ basis) * diagonal) @ basis.mT
    return result


def check_named(shrinkage: Metric, pseudo_count: float, name_weight: float) -> None:
    """Raises:
    HeadError: a setting out of range.
    """
    for one in [shrinkage] if isinstance(shrinkage, (int, float)) else [pair[0] for pair in shrinkage]:
        check_settings(one, "uniform")
    if not pseudo_count > 0:
        raise HeadError(f"pseudo_count must be above 0, got {pseudo_count}.")
    if not name_weight >= 0:
        raise HeadError(f"name_weight must not be below 0, got {name_weight}.")


def _pairs(spectrum: Spectrum, shrinkage: Metric) -> list[tuple[float, Tensor]]:
    if isinstance(shrinkage, (int, float)):
        return [(float(shrinkage), spectrum.even(shrinkage))]
    like = spectrum.total
    return [(one, like.new_ones(like.shape) * torch.as_tensor(factor).to(like)) for one, factor in shrinkage]


def named_lda_from_moments(
    moments: Moments,
    label_embeddings: Tensor | None,
    *,
    shrinkage: Metric = 1.0,
    pseudo_count: float = 4.0,
    name_weight: float = 1.5,
    middle: Tensor | None = None,
    unit: float | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``named_lda``."""
    check_named(shrinkage, pseudo_count, name_weight)
    present = (moments.counts > 0).double()
    if middle is None:
        middle = present @ moments.means() / present.sum().clamp(min=1)
    number, total = moments.number, moments.sums.sum(0)
    squares = moments.second.diagonal().sum() - 2 * total @ middle + number * middle.square().sum()
    if unit is None:
        unit = squares / number if number > 0 and squares > 0 else 1.0
    frame = Frame(middle, torch.as_tensor(unit, dtype=torch.float64))
    scatter = moments.scatter()
    if scatter.diagonal().sum() <= 1e-12 * moments.second.diagonal().sum():
        scatter = torch.zeros_like(scatter)
    means = moments.means() - middle
    spectrum = Spectrum.of_matrix(scatter, squares)
    names = label_directions(label_embeddings, frame)
    return fitted(means, moments.counts, names, frame, spectrum, shrinkage, pseudo_count, name_weight)


NAMED_LDA = Estimator(
    "named_lda", named_lda, named_lda_held_out, named_lda_from_moments, grid=(), normalize=True,
    uses_label_embeddings=True, compares_means=True,
)  # fmt: skip
"""It has no grid: ``choose_head`` averages over its settings, see there."""
