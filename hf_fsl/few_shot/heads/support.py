"""What estimators see of a support set: its examples, checked and transformed, or their sufficient statistics."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_fsl.core.errors import UserError
from hf_fsl.models.published.linear_head import FeatureTransform


class HeadError(UserError, ValueError):
    """Supports, labels, label embeddings or settings that a head cannot be fitted with."""


class TooFewSupports(HeadError):
    """Supports that are all right, and not enough for what is asked."""


@dataclass(frozen=True)
class SupportSet:
    """A support set, or a batch of them (``...``, episodes)."""

    features: Tensor
    """``(..., n, D)``, transformed."""
    labels: Tensor
    """``(..., n)``, long."""
    one_hot: Tensor
    """``(..., n, C)``, of the features' type."""
    weights: Tensor
    """``(..., n)``, of the features' type: as how many examples each counts."""
    counts: Tensor
    """Examples of each class, each as many as it counts ``(..., C)``."""
    members: Tensor
    """Supports of each class ``(..., C)``, whatever they weigh."""
    transform: FeatureTransform
    label_embeddings: Tensor | None = None
    """``(..., C, D)``: label embeddings of length 1 less their mean over the classes, which no softmax sees."""

    @classmethod
    def of(
        cls,
        features: Tensor,
        labels: Tensor,
        num_classes: int,
        transform: FeatureTransform,
        label_embeddings: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> SupportSet:
        """Of transformed supports; without weights each counts as one."""
        one_hot = torch.nn.functional.one_hot(labels, num_classes).to(features.dtype)
        weights = torch.ones_like(features[..., 0]) if weights is None else weights.to(features)
        counts = (weights.unsqueeze(-1) * one_hot).sum(-2)
        return cls(features, labels, one_hot, weights, counts, one_hot.sum(-2), transform, label_embeddings)

    @property
    def num_classes(self) -> int:
        return self.one_hot.shape[-1]

    @property
    def number(self) -> Tensor:
        """Of all the supports, each as many as it counts ``(...)``."""
        return self.weights.sum(-1)

    @property
    def alone(self) -> Tensor:
        """Whether a support is the only one of its class ``(..., n)``."""
        return self.own(self.members) < 2

    @property
    def roots(self) -> Tensor:
        """``(..., n, 1)``: a weight in a sum of squares is its root on the row."""
        return self.weights.sqrt().unsqueeze(-1)

    def own(self, of_classes: Tensor) -> Tensor:
        """Of each support its class's: ``(..., C)`` -> ``(..., n)``."""
        return torch.take_along_dim(of_classes, self.labels, -1)

    def own_rows(self, of_classes: Tensor) -> Tensor:
        """Of each support its class's: ``(..., C, D)`` -> ``(..., n, D)``."""
        return torch.take_along_dim(of_classes, self.labels.unsqueeze(-1), -2)

    def sums(self) -> Tensor:
        """``(..., C, D)``."""
        features = self.features * self.weights.unsqueeze(-1)
        empty = features.new_zeros(*features.shape[:-2], self.num_classes, features.shape[-1])
        return empty.scatter_add(-2, self.labels.unsqueeze(-1).expand(features.shape), features)

    def means(self) -> Tensor:
        """Class means ``(..., C, D)``; zeros for a class without supports."""
        return self.sums() / or_one(self.counts).unsqueeze(-1)

    def squares(self) -> Tensor:
        """Squared lengths, each as many as its support counts ``(..., n)``."""
        return self.weights * self.features.square().sum(-1)

    def without(self) -> Tensor:
        """The classes' counts without each support: ``(..., n, C)``."""
        return self.counts.unsqueeze(-2) - self.one_hot * self.weights.unsqueeze(-1)

    def at(self, rows: Tensor) -> SupportSet:
        """Some supports ``(m,)`` of a set without episodes, with the counts of all."""
        names = ("features", "labels", "one_hot", "weights")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def shifted(self, middle: Tensor) -> SupportSet:
        """The same about ``middle`` ``(..., D)``."""
        return replace(self, features=self.features - middle.unsqueeze(-2))

    def double(self) -> SupportSet:
        """The same in float64, for what is solved or subtracted."""
        names = ("features", "one_hot", "weights", "counts", "label_embeddings")
        return replace(self, **{name: value.double() for name in names if (value := getattr(self, name)) is not None})


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


def read_support_set(
    support: Tensor,
    labels: Tensor,
    *,
    num_classes: int | None = None,
    label_embeddings: Tensor | None = None,
    base_mean: Tensor | None = None,
    weights: Tensor | None = None,
    centre: bool = False,
    normalize: bool = False,
) -> SupportSet:
    """Checks a support set and puts it into the transform.

    Args:
        support: embeddings ``(..., n, D)``.
        labels: class indices ``(..., n)``.
        num_classes: C; None: as many as there are label embeddings, or as the labels name.
        label_embeddings: ``(..., C, D)``.
        base_mean: ``(D,)``, what ``centre`` takes away: the mean of the base classes or of unlabelled embeddings;
            None: the mean of the supports.
        weights: ``(..., n)``, above 0: as how many examples each support counts; None: as one.
        centre, normalize: the feature transform.

    Raises:
        HeadError: shapes that do not fit, values that are not finite, labels or weights out of range, or fewer than
            two classes.
    """
    _check_shapes(support, labels, label_embeddings, base_mean)
    if num_classes is None:
        named = int(labels.max()) + 1 if labels.numel() else 0
        num_classes = named if label_embeddings is None else label_embeddings.shape[-2]
    _check_classes(labels, num_classes, label_embeddings)
    if support.dtype not in (torch.float32, torch.float64):
        support = support.float()
    if weights is not None and not (
        weights.shape == labels.shape and bool(weights.isfinite().all() & (weights > 0).all())
    ):
        raise HeadError(
            f"Weights are one finite number above 0 a support, here {tuple(labels.shape)}; got {tuple(weights.shape)}"
            + (f" from {float(weights.min()):g} to {float(weights.max()):g}." if weights.numel() else ".")
        )
    transform = _transform(support, base_mean, weights, centre, normalize)
    centered = centered_label_embeddings(label_embeddings, support.dtype)
    return SupportSet.of(transform(support), labels, num_classes, transform, centered, weights)


def or_one(counts: Tensor) -> Tensor:
    """What sums of a class are divided by; those of a class without supports are 0."""
    return torch.where(counts > 0, counts, torch.ones_like(counts))


def require_every_class(support: SupportSet, method: str) -> None:
    """Raises:
    HeadError: a class has no support.
    """
    empty = _classes_where(support.counts == 0)
    if empty:
        raise HeadError(
            f"{method} needs an example of every class; class {_listed(empty)} of {support.num_classes} has none. "
            "Give one, or label_embeddings and an estimator that uses them ('anchored', 'named_lda', 'cache')."
        )


def require_two_of_every_class(support: SupportSet) -> None:
    """Raises:
    HeadError: a class would be empty once its example is left out.
    """
    short = _classes_where(support.members < 2)
    if short:
        raise HeadError(
            f"Held-out logits need at least two examples of every class; class {_listed(short)} has fewer. At one "
            "shot nothing can be held out: use the defaults."
        )


def _classes_where(condition: Tensor) -> list[int]:
    """Classes for which it holds ``(..., C)`` in any episode."""
    return condition.reshape(-1, condition.shape[-1]).any(0).nonzero().flatten().tolist()


def _transform(
    support: Tensor, base_mean: Tensor | None, weights: Tensor | None, centre: bool, normalize: bool
) -> FeatureTransform:
    if not centre or (base_mean is None and support.shape[-2] == 0):
        return FeatureTransform(normalize=normalize)
    if base_mean is not None:
        mean = base_mean
    elif weights is None:
        mean = support.double().mean(-2)
    else:
        shares = (weights / weights.sum(-1, keepdim=True)).double()
        mean = (shares.unsqueeze(-2) @ support.double()).squeeze(-2)
    return FeatureTransform(centre=mean.to(support.dtype), normalize=normalize)


def centered_label_embeddings(label_embeddings: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Label embeddings ``(..., C, D)`` of length 1, less their mean over the classes."""
    if label_embeddings is None:
        return None
    unit = torch.nn.functional.normalize(label_embeddings.double(), dim=-1)
    return (unit - unit.mean(-2, keepdim=True)).to(dtype)


def _check_shapes(support: Tensor, labels: Tensor, label_embeddings: Tensor | None, base_mean: Tensor | None) -> None:
    if support.ndim < 2 or not support.is_floating_point():
        raise HeadError(f"Supports are floats of shape (..., n, D), got {support.dtype} {tuple(support.shape)}.")
    if labels.shape != support.shape[:-1] or labels.dtype != torch.int64:
        raise HeadError(
            f"Labels are one integer (torch.long) a support, here of shape {tuple(support.shape[:-1])}; got "
            f"{labels.dtype} {tuple(labels.shape)}."
        )
    dimension = support.shape[-1]
    if label_embeddings is not None and (label_embeddings.ndim < 2 or label_embeddings.shape[-1] != dimension):
        raise HeadError(
            f"label_embeddings has one row a class, from the encoder of the supports: (C, {dimension}); got "
            f"{tuple(label_embeddings.shape)}."
        )
    if base_mean is not None and base_mean.shape != (dimension,):
        raise HeadError(f"base_mean has the shape ({dimension},) of one embedding, got {tuple(base_mean.shape)}.")
    given = {"Support embeddings": support, "label_embeddings": label_embeddings, "base_mean": base_mean}
    for name, value in given.items():
        if value is not None and not bool(value.isfinite().all()):
            raise HeadError(
                f"{name} must be finite, got NaN or infinite values. Look for empty inputs, or an encoder in float16."
            )


def _check_classes(labels: Tensor, num_classes: int, label_embeddings: Tensor | None) -> None:
    if num_classes < 2:
        raise HeadError(
            f"A classifier needs at least two classes, got {num_classes}. Add examples of another class, or label "
            "embeddings of every class."
        )
    if label_embeddings is not None and label_embeddings.shape[-2] != num_classes:
        raise HeadError(f"{num_classes} classes need as many label embeddings, got {label_embeddings.shape[-2]}.")
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
        raise HeadError(
            f"Labels of {num_classes} classes run from 0 to {num_classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}."
        )


def _listed(classes: list[int]) -> str:
    return ", ".join(map(str, classes[:5])) + (", …" if len(classes) > 5 else "")


def penalised(matrix: Tensor, strength: Tensor) -> Tensor:
    """A square matrix ``(..., k, k)`` plus ``strength`` ``(...)`` times the identity."""
    size = matrix.shape[-1]
    identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    return matrix + strength.expand(matrix.shape[:-2])[..., None, None] * identity


def zero_shot_weight(support: SupportSet, strength: float) -> Tensor:
    """αW₀ ``(..., C, D)``, W₀ the label embeddings: the zero-shot classifier; zeros without them."""
    shape = (*support.counts.shape, support.features.shape[-1])
    if support.label_embeddings is None:
        return torch.zeros(shape, dtype=support.features.dtype, device=support.features.device)
    return (strength * support.label_embeddings).expand(shape)
