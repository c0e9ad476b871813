"""LDA whose class means start at the label embeddings: one posterior mean, from no example of a class to many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hf_fsl.heads.errors import HeadError
from hf_fsl.heads.lda import check_settings
from hf_fsl.heads.spectral import SpectralScatter
from hf_fsl.heads.support import Support

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
    def of(cls, support: Support, middle: Tensor | None = None, unit: float | Tensor | None = None) -> Frame:
        """Those given; None: those of the supports."""
        features = support.features
        if middle is None:
            present = (support.counts > 0).to(features.dtype)
            middle = (present.unsqueeze(-2) @ support.means()).squeeze(-2) / present.sum(-1, keepdim=True).clamp(min=1)
        if unit is None:
            squares = (features - middle.unsqueeze(-2)).square().sum(-1)
            unit = squares.mean(-1) if features.shape[-2] else squares.new_ones(squares.shape[:-1])
            unit = torch.where(unit > 0, unit, torch.ones_like(unit))
        return cls(middle.to(features), torch.as_tensor(unit, dtype=features.dtype, device=features.device))


def named_lda(
    support: Support,
    *,
    shrinkage: Metric = 1.0,
    pseudo_count: float = 4.0,
    name_weight: float = 1.5,
    middle: Tensor | None = None,
    unit: float | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The class mean of a Gaussian whose prior mean is the label embedding, under a shrunk covariance.

    About the middle m of the classes, with class means x̄_c and counts n_c, and label embeddings less their mean,
    of the supports' own length, e_c: w_c = n_c/(n_c + κ), r_c = ρ/(n_c + κ), u_c = w_c (x̄_c − m), v_c = r_c e_c, and

        logit_c(z) = [(z−m)ᵀ(M u_c + v_c) − ½ u_cᵀM u_c − u_cᵀv_c − ½ v_cᵀv_c] / unit

    which is LDA about the posterior mean u_c + v_c, but that M ∝ ((1−λ) S D/tr(S) + λI)⁻¹ weighs the examples only:
    the spread of examples within a class says nothing of how names lie. M leaves the mean square within the classes
    as it is, so that against it a name weighs the same for any λ: as much as ρ examples, however many there are. With
    one example a class, M = I.

    Args:
        shrinkage: λ in (0, 1], as in ``shrunk_lda``; or pairs of λ and factor, for M as a sum.
        pseudo_count: κ, how strongly a class mean of few examples is drawn to the middle.
        name_weight: ρ; without a prior it has no effect.
        middle: m ``(..., D)``; None: the mean of the class means.
        unit: ``(...)``; None: the mean squared distance of the supports from m.

    Raises:
        HeadError: a setting out of range.
    """
    check_named(shrinkage, pseudo_count, name_weight)
    support = support.double()
    frame = Frame.of(support, middle, unit)
    support = support.shifted(frame.middle)
    return fitted(support, frame, SpectralScatter.of(support), shrinkage, pseudo_count, name_weight)


def fitted(
    support: Support,
    frame: Frame,
    scatter: SpectralScatter,
    shrinkage: Metric,
    pseudo_count: float,
    name_weight: float,
) -> tuple[Tensor, Tensor]:
    """W and b from supports about the middle, and their scatter."""
    counts = support.counts.unsqueeze(-1)
    own = support.means() * counts / (counts + pseudo_count)
    names = label_directions(support, frame) * name_weight / (counts + pseudo_count)
    examples = whiten(scatter, own, shrinkage)
    weight = (examples + names) / frame.unit[..., None, None]
    bias = -(0.5 * examples * own + own * names + 0.5 * names.square()).sum(-1) / frame.unit.unsqueeze(-1)
    return weight, bias - (weight @ frame.middle.unsqueeze(-1)).squeeze(-1)


def named_lda_held_out(
    support: Support,
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

    support: Support
    """About the middle, float64."""
    frame: Frame
    scatter: SpectralScatter
    names: Tensor
    """(z−m)ᵀe_c ``(..., n, C)``, in units of ``unit``, as all that follow."""
    crossed: Tensor
    """(x̄_c − m)ᵀe_c without the support: ``(..., n, C)``."""
    lengths: Tensor
    """‖e_c‖² ``(..., 1, C)``."""

    @classmethod
    def of(cls, support: Support, middle: Tensor | None = None, unit: float | Tensor | None = None) -> NamedHeldOut:
        support = support.double()
        frame = Frame.of(support, middle, unit)
        support = support.shifted(frame.middle)
        names = label_directions(support, frame)
        others = (support.one_hot @ support.counts.unsqueeze(-1) - 1).clamp(min=1)
        scatter = SpectralScatter.of(support)
        apart = (scatter.deviations * (support.one_hot @ names)).sum(-1, keepdim=True)
        crossed = (support.means() * names).sum(-1).unsqueeze(-2) - support.one_hot * apart / others
        each = frame.unit[..., None, None]
        lengths = names.square().sum(-1).unsqueeze(-2)
        return cls(support, frame, scatter, support.features @ names.mT / each, crossed / each, lengths / each)

    def of_metric(self, shrinkage: Metric) -> tuple[Tensor, Tensor]:
        """(z−m)ᵀM(x̄_c − m) and (x̄_c − m)ᵀM(x̄_c − m), each ``(..., n, C)`` and without the support."""
        products = norms = torch.zeros_like(self.names)
        for one, factor in _pairs(self.scatter, shrinkage):
            forms = self.scatter.held_out(one)
            each = (factor / self.frame.unit)[..., None, None] * forms.spread
            products, norms = products + forms.products * each, norms + forms.norms * each
        return products, norms

    def logits(self, metric: tuple[Tensor, Tensor], pseudo_count: float, name_weight: float | Tensor) -> Tensor:
        """Leave-one-out logits ``(..., n, C)``; NaN for the only support of a class.

        Args:
            name_weight: one, or several ``(..., 1, 1)``.
        """
        rest = self.support.counts.unsqueeze(-2) - self.support.one_hot
        w, r = rest / (rest + pseudo_count), name_weight / (rest + pseudo_count)
        linear = w * metric[0] + r * self.names
        bias = 0.5 * w.square() * metric[1] + w * r * self.crossed + 0.5 * r.square() * self.lengths
        alone = (rest * self.support.one_hot).sum(-1, keepdim=True) < 1
        return torch.where(alone, torch.nan, linear - bias)


def label_directions(support: Support, frame: Frame) -> Tensor:
    """e ``(..., C, D)``: label embeddings less their mean, as long as the supports are from the middle."""
    if support.prior is None:
        return support.features.new_zeros(*support.counts.shape, support.features.shape[-1])
    return normalize(support.prior, dim=-1) * frame.unit.sqrt()[..., None, None]


def whiten(scatter: SpectralScatter, rows: Tensor, shrinkage: Metric) -> Tensor:
    """M u ``(..., C, D)`` of rows u."""
    relative, basis = scatter.relative(), scatter.basis
    result = torch.zeros_like(rows)
    for one, factor in _pairs(scatter, shrinkage):
        # In the eigenvectors a diagonal, beside them I/λ; where the scatter is nothing, I.
        flat = relative.sum(-1) == 0
        beside = torch.where(flat, torch.ones_like(factor), factor / one)[..., None, None]
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


def _pairs(scatter: SpectralScatter, shrinkage: Metric) -> list[tuple[float, Tensor]]:
    if isinstance(shrinkage, (int, float)):
        return [(float(shrinkage), scatter.even(shrinkage))]
    like = scatter.eigenvalues.new_ones(scatter.eigenvalues.shape[:-1])
    return [(one, like * torch.as_tensor(factor, dtype=like.dtype, device=like.device)) for one, factor in shrinkage]
