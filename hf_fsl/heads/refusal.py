"""Refusal of what belongs to no class: by the distance to the nearest class mean, at a requested coverage.

The threshold comes from the supports alone, each left out of its own class mean (jackknife). It is right on average
over draws of a support set; for one draw nothing is guaranteed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hf_fsl.heads.errors import HeadError, TooFewSupports
from hf_fsl.modeling import FeatureTransform


@dataclass(frozen=True)
class Refusal:
    """Which embeddings to refuse: those farther than ``threshold`` from every class mean."""

    means: Tensor
    """``(C, D')``, in the transform."""
    threshold: float
    coverage: float
    """The share of in-scope inputs, on average over support sets, that is not refused."""
    transform: FeatureTransform = field(default_factory=FeatureTransform)

    def score(self, embeddings: Tensor) -> Tensor:
        """``min_c ‖z − μ_c‖``, ``(..., N)`` in float64, of embeddings ``(..., N, D)``; high is out of scope."""
        return _squared_distances(self.transform(embeddings), self.means).amin(-1).sqrt()

    def refuses(self, embeddings: Tensor) -> Tensor:
        """Booleans ``(..., N)``."""
        return self.score(embeddings) > self.threshold

    def to_tensors(self) -> dict[str, Tensor]:
        """What ``from_tensors`` takes; fit for a safetensors file."""
        tensors = {
            "means": self.means.contiguous(),
            "threshold": torch.tensor(self.threshold, dtype=torch.float64),
            "coverage": torch.tensor(self.coverage, dtype=torch.float64),
            "normalize": torch.tensor(self.transform.normalize),
        }
        for name in ("centre", "projection"):
            value = getattr(self.transform, name)
            if value is not None:
                tensors[name] = value.contiguous()
        return tensors

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Refusal:
        """The refusal that ``to_tensors`` gave."""
        transform = FeatureTransform(tensors.get("centre"), tensors.get("projection"), bool(tensors["normalize"]))
        return cls(tensors["means"], float(tensors["threshold"]), float(tensors["coverage"]), transform)


def fit_refusal(
    support: Tensor,
    labels: Tensor,
    *,
    coverage: float = 0.9,
    transform: FeatureTransform | None = None,
    num_classes: int | None = None,
) -> Refusal:
    """A threshold that keeps the requested share of in-scope inputs, from at least two supports of every class.

    The threshold is a quantile of the leave-one-out scores: the j-th smallest of n has the coverage j / (n + 1) on
    average, and straight lines join them (with a handful of scores, a point or two too high between the largest).
    Of a class with two supports, which are equally far from their mean, one
    counts.

    Args:
        support: ``(n, D)``; of an adapted backbone, embeddings from models that were not adapted on them.
        labels: ``(n,)``; in the proportions in which the classes are expected.
        coverage: share of in-scope inputs not to be refused.
        transform: where distances are taken, that of the head; not one that was fitted to these labels.
        num_classes: C; None: as many as the labels name.

    Raises:
        TooFewSupports: a class with fewer than two, or too few for the coverage.
        HeadError: shapes that do not fit, or a coverage that is none.
    """
    if not 0 < coverage < 1:
        raise HeadError(f"coverage is a share above 0 and below 1, not {coverage}.")
    transform = transform or FeatureTransform()
    scores, means = leave_one_out_scores(support, labels, transform=transform, num_classes=num_classes)
    scores = scores[_independent(labels)]
    count, place = len(scores), coverage * (len(scores) + 1) - 1
    if place > count - 1 or place < 0:
        raise TooFewSupports(
            f"coverage={coverage:g} cannot be had of {len(labels)} supports, which give {count} independent scores: "
            f"from {1 / (count + 1):.2f} to {count / (count + 1):.2f} can. Give more supports, or ask for another "
            "coverage."
        )
    below = int(place)
    ordered = scores.sort().values
    above = ordered[min(below + 1, count - 1)]
    threshold = ordered[below] + (place - below) * (above - ordered[below])
    return Refusal(means.to(support.dtype), float(threshold), coverage, transform)


def leave_one_out_scores(
    support: Tensor, labels: Tensor, *, transform: FeatureTransform, num_classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Scores of the supports ``(n,)``, distributed as those of other examples, and the class means ``(C, D')``.

    An example among the k that a mean was made of is nearer to it than another one: with variance σ² within the
    class, ``E‖z − μ‖²`` is σ²(1 − 1/k) instead of σ²(1 + 1/k). Left out of the mean it is too far, σ²(1 + 1/(k−1)),
    because that mean is of k − 1. So the squared distance to its own mean is multiplied by (k + 1)/(k − 1), which has
    the right expectation, and for normally distributed features the right distribution.

    Raises:
        HeadError: see ``fit_refusal``.
    """
    if support.ndim != 2 or labels.shape != support.shape[:1] or not len(labels):
        raise HeadError(f"Supports (n, D) have labels (n,); got {tuple(support.shape)} and {tuple(labels.shape)}.")
    if not bool(support.isfinite().all()):
        raise HeadError("Support embeddings must be finite, got NaN or infinite values.")
    features = transform(support.double() if transform.centre is None else support).double()
    own = one_hot(labels, -1 if num_classes is None else num_classes).to(features.dtype)
    counts = own.sum(0)
    short = (counts < 2).nonzero().flatten().tolist()
    if short:
        raise TooFewSupports(
            f"Refusal needs at least two supports of every class, since each is left out of its mean; class "
            f"{short[0]} has {int(counts[short[0]])}. At one shot no threshold can be set."
        )
    means = own.mT @ features / counts.unsqueeze(-1)
    stretch = torch.where(own.bool(), (counts + 1) / (counts - 1), 1.0)
    return (_squared_distances(features, means) * stretch).amin(-1).sqrt(), means


def _independent(labels: Tensor) -> Tensor:
    """Which supports tell something of their own ``(n,)``: all but the second of a class of two."""
    pairs = torch.bincount(labels)[labels] == 2
    earlier = (labels.unsqueeze(1) == labels).tril(-1).any(1)
    return ~(pairs & earlier)


def _squared_distances(features: Tensor, means: Tensor) -> Tensor:
    features, means = features.double(), means.double()
    norms = features.square().sum(-1, keepdim=True) + means.square().sum(-1)
    return (norms - 2 * features @ means.mT).clamp(min=0)
