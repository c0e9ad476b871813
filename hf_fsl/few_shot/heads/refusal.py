"""Refusal of what belongs to no class: by the distance to the nearest class mean, at a requested coverage.

The threshold comes from the supports alone, each left out of its own class mean (jackknife). It is right on average
over draws of a support set; for one draw nothing is guaranteed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hf_fsl.few_shot.heads.support import HeadError, TooFewSupports
from hf_fsl.models.published.linear_head import FeatureTransform


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
    weights: Tensor | None = None,
) -> Refusal:
    """A threshold that keeps the requested share of in-scope inputs, from at least two supports of every class.

    The threshold is a quantile of the leave-one-out scores: the j-th smallest of n has the coverage j / (n + 1) on
    average, and straight lines join them (with a handful of scores, a point or two too high between the largest).
    Of a class with two supports, which are equally far from their mean, one counts.

    Args:
        support: ``(n, D)``; of an adapted backbone, embeddings from models that were not adapted on them.
        labels: ``(n,)``; in the proportions in which the classes are expected.
        coverage: share of in-scope inputs not to be refused.
        transform: where distances are taken, that of the head; not one that was fitted to these labels.
        num_classes: C; None: as many as the labels name.
        weights: ``(n,)``, above 0: of each support in its class's mean; None: all the same.

    Returns:
        The class means and the threshold, in the transform.

    Raises:
        TooFewSupports: a class with fewer than two, or too few for the coverage.
        HeadError: shapes that do not fit, or a coverage that is none.
    """
    if not 0 < coverage < 1:
        raise HeadError(f"coverage is a share above 0 and below 1, not {coverage}.")
    transform = transform or FeatureTransform()
    scores, means = leave_one_out_scores(
        support, labels, transform=transform, num_classes=num_classes, weights=weights
    )
    scores = scores[_independent(labels)]
    count, place = len(scores), coverage * (len(scores) + 1) - 1
    if place > count - 1 or place < 0:
        raise TooFewSupports(
            f"coverage={coverage:g} cannot be told from {len(labels)} supports, which give {count} independent "
            f"score{'s' * (count > 1)} (two supports of a class give one). {way_to_coverage(coverage, count)}"
        )
    below = int(place)
    ordered = scores.sort().values
    above = ordered[min(below + 1, count - 1)]
    threshold = ordered[below] + (place - below) * (above - ordered[below])
    return Refusal(means.to(support.dtype), float(threshold), coverage, transform)


def way_to_coverage(coverage: float, count: int) -> str:
    """What to do where ``count`` scores do not reach a coverage: j / (count + 1) are those that they can tell."""
    needed = math.ceil(round(max(coverage / (1 - coverage), (1 - coverage) / coverage), 9))
    low, high = -(-100 // (count + 1)), 100 * count // (count + 1)
    return f"It takes {needed}: give more examples, or fit with a coverage from {low / 100:g} to {high / 100:g}."


def leave_one_out_scores(
    support: Tensor,
    labels: Tensor,
    *,
    transform: FeatureTransform,
    num_classes: int | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores of the supports that are distributed as those of other examples.

    An example among the k that a mean was made of is nearer to it than another one: with variance σ² within the
    class, ``E‖z − μ‖²`` is σ²(1 − 1/k) instead of σ²(1 + 1/k). Left out of the mean it is too far, σ²(1 + 1/(k−1)),
    because that mean is of k − 1. So the squared distance to its own mean is multiplied by (k + 1)/(k − 1), which has
    the right expectation, and for normally distributed features the right distribution. With shares a of the mean, and
    q the sum of their squares, it is (1 + q)/(1 − 2a + q).

    Args:
        support: ``(n, D)``; this and what follows as for ``fit_refusal``.
        labels: ``(n,)``.
        transform: where distances are taken.
        num_classes: C.
        weights: ``(n,)``.

    Returns:
        Scores ``(n,)``, and the class means ``(C, D')``.

    Raises:
        HeadError: see ``fit_refusal``.
    """
    if support.ndim != 2 or labels.shape != support.shape[:1] or not len(labels):
        raise HeadError(f"Supports (n, D) have labels (n,); got {tuple(support.shape)} and {tuple(labels.shape)}.")
    if not bool(support.isfinite().all()):
        raise HeadError("Support embeddings must be finite, got NaN or infinite values.")
    features = transform(support.double() if transform.centre is None else support).double()
    own = one_hot(labels, -1 if num_classes is None else num_classes).to(features.dtype)
    members = own.sum(0)
    short = (members < 2).nonzero().flatten().tolist()
    if short:
        raise TooFewSupports(
            f"Refusal needs at least two supports of every class, since each is left out of its mean; class "
            f"{short[0]} has {int(members[short[0]])}. At one shot no threshold can be set; give each class another."
        )
    if weights is not None:
        own = own * weights.to(own).unsqueeze(-1)
    counts = own.sum(0)
    shares = own / counts
    means = own.mT @ features / counts.unsqueeze(-1)
    squares = shares.square().sum(0)
    stretch = torch.where(own > 0, (1 + squares) / (1 - 2 * shares + squares), 1.0)
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
