"""Heads from sufficient statistics: class counts, sums and second moments of the transformed supports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hf_fsl.few_shot.heads.lda import Spectrum, check_settings, from_weight, log_prior, shrunk_scales
from hf_fsl.few_shot.heads.named_lda import Frame, Metric, check_named, fitted, label_directions
from hf_fsl.few_shot.heads.support import or_one, penalised


@dataclass(frozen=True)
class Moments:
    """All that nearest means, LDA and ridge see of their supports; float64."""

    counts: Tensor
    """``(C,)``."""
    sums: Tensor
    """``(C, D)``."""
    second: Tensor
    """ZᵀZ ``(D, D)``."""

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, num_classes: int, weights: Tensor | None = None) -> Moments:
        """Of transformed supports ``(n, D)``, each of which counts as one, or as its weight ``(n,)``."""
        features = features.double()
        one_hot = torch.nn.functional.one_hot(labels, num_classes).double()
        if weights is None:
            return cls(one_hot.sum(0), one_hot.mT @ features, features.mT @ features)
        one_hot = one_hot * weights.double().unsqueeze(-1)
        return cls(one_hot.sum(0), one_hot.mT @ features, (features * weights.double().unsqueeze(-1)).mT @ features)

    def plus(self, other: Moments) -> Moments:
        """Of both; the other may have more classes."""
        more = len(other.counts) - len(self.counts)
        pad = torch.nn.functional.pad
        return Moments(
            pad(self.counts, (0, more)) + other.counts,
            pad(self.sums, (0, 0, 0, more)) + other.sums,
            self.second + other.second,
        )

    @property
    def number(self) -> Tensor:
        """n."""
        return self.counts.sum()

    def means(self) -> Tensor:
        """``(C, D)``; zeros for a class without supports."""
        return self.sums / or_one(self.counts).unsqueeze(-1)

    def scatter(self) -> Tensor:
        """Z̃ᵀZ̃ about the class means ``(D, D)``."""
        return self.second - self.sums.mT @ self.means()


def euclidean(moments: Moments, label_embeddings: Tensor | None, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """``nearest_mean.euclidean``."""
    means = moments.means()
    return 2 * scale * means, -scale * means.square().sum(-1)


def angular(moments: Moments, label_embeddings: Tensor | None, *, scale: float = 10.0) -> tuple[Tensor, Tensor]:
    """``nearest_mean.angular``."""
    return scale * normalize(moments.sums, dim=-1), torch.zeros_like(moments.counts)


def shrunk_lda(
    moments: Moments, label_embeddings: Tensor | None, *, shrinkage: float = 0.5, class_prior: str = "uniform"
) -> tuple[Tensor, Tensor]:
    """``lda.shrunk_lda``."""
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


def ridge(
    moments: Moments, label_embeddings: Tensor | None, *, penalty: float = 1.0, unit: float | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``ridge.ridge``."""
    number = moments.number
    centre, level = moments.sums.sum(0) / number, moments.counts / number
    squares = moments.second - number * torch.outer(centre, centre)
    products = moments.sums.mT - number * torch.outer(centre, level)
    weight = _regression(squares, products, number, penalty, unit)
    return weight, level - weight @ centre


def anchored(
    moments: Moments,
    label_embeddings: Tensor | None,
    *,
    penalty: float = 1.0,
    strength: float = 3.0,
    unit: float | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``anchored.anchored``."""
    start = torch.zeros_like(moments.sums) if label_embeddings is None else strength * label_embeddings
    bias = torch.zeros_like(moments.counts)
    if moments.number == 0:
        return start, bias
    classes = len(moments.counts)
    products = moments.sums.mT - moments.sums.sum(0).unsqueeze(-1) / classes - moments.second @ start.mT
    return start + _regression(moments.second, products, moments.number, penalty, unit), bias


def named_lda(
    moments: Moments,
    label_embeddings: Tensor | None,
    *,
    shrinkage: Metric = 1.0,
    pseudo_count: float = 4.0,
    name_weight: float = 1.5,
    middle: Tensor | None = None,
    unit: float | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``named_lda.named_lda``."""
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


FROM_MOMENTS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "nearest_mean": euclidean,
    "cosine": angular,
    "cl2n": euclidean,
    "lda": shrunk_lda,
    "ridge": ridge,
    "anchored": anchored,
    "named_lda": named_lda,
}
"""Estimator -> W and b from moments and the centered label embeddings."""


def _regression(
    squares: Tensor, products: Tensor, number: Tensor, penalty: float, unit: float | Tensor | None
) -> Tensor:
    mean = squares.diagonal().sum() / number
    scale = torch.as_tensor(unit, dtype=torch.float64) if unit is not None else torch.where(mean > 0, mean, 1.0)
    return torch.linalg.solve(penalised(squares, penalty * scale), products).mT
