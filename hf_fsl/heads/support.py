"""The support set as the estimators see it: checked, transformed, with one-hot labels and class counts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_fsl.heads.errors import HeadError
from hf_fsl.modeling import FeatureTransform


@dataclass(frozen=True)
class Support:
    """A support set, or a batch of them (``...``, episodes)."""

    features: Tensor
    """``(..., n, D)``, transformed."""
    labels: Tensor
    """``(..., n)``, long."""
    one_hot: Tensor
    """``(..., n, C)``, of the features' type."""
    counts: Tensor
    """Supports of each class ``(..., C)``, of the features' type."""
    transform: FeatureTransform
    prior: Tensor | None = None
    """``(..., C, D)``: label embeddings of length 1 less their mean over the classes, which no softmax sees."""

    @property
    def num_classes(self) -> int:
        return self.one_hot.shape[-1]

    def means(self) -> Tensor:
        """Class means ``(..., C, D)``; zeros for a class without supports."""
        return (self.one_hot.mT @ self.features) / self.counts.clamp(min=1).unsqueeze(-1)

    def shifted(self, middle: Tensor) -> Support:
        """The same about ``middle`` ``(..., D)``."""
        return replace(self, features=self.features - middle.unsqueeze(-2))

    def double(self) -> Support:
        """The same in float64, for what is solved or subtracted."""
        return Support(
            self.features.double(),
            self.labels,
            self.one_hot.double(),
            self.counts.double(),
            self.transform,
            None if self.prior is None else self.prior.double(),
        )


def read_support(
    support: Tensor,
    labels: Tensor,
    *,
    num_classes: int | None = None,
    prior: Tensor | None = None,
    base_mean: Tensor | None = None,
    centre: bool = False,
    normalize: bool = False,
) -> Support:
    """Checks a support set and puts it into the transform.

    Args:
        support: embeddings ``(..., n, D)``.
        labels: class indices ``(..., n)``.
        num_classes: C; None: as many as the prior has, or as the labels name.
        prior: label embeddings ``(..., C, D)``.
        base_mean: ``(D,)``, what ``centre`` takes away: the mean of the base classes or of unlabelled embeddings;
            None: the mean of the supports.
        centre, normalize: the feature transform.

    Raises:
        HeadError: shapes that do not fit, values that are not finite, labels out of range, or fewer than two classes.
    """
    _check_shapes(support, labels, prior, base_mean)
    if num_classes is None:
        num_classes = prior.shape[-2] if prior is not None else int(labels.max()) + 1 if labels.numel() else 0
    _check_classes(labels, num_classes, prior)
    if support.dtype not in (torch.float32, torch.float64):
        support = support.float()
    transform = _transform(support, base_mean, centre, normalize)
    one_hot = torch.nn.functional.one_hot(labels, num_classes).to(support.dtype)
    return Support(
        transform(support), labels, one_hot, one_hot.sum(-2), transform, centred_prior(prior, support.dtype)
    )


def require_every_class(support: Support, method: str) -> None:
    """Raises:
    HeadError: a class has no support.
    """
    empty = _classes_where(support.counts == 0)
    if empty:
        raise HeadError(
            f"{method} needs an example of every class; class {_listed(empty)} of {support.num_classes} has none. "
            "Give one, or label embeddings as prior and an estimator that uses them ('prior' or 'cache')."
        )


def require_two_of_every_class(support: Support) -> None:
    """Raises:
    HeadError: a class would be empty once its example is left out.
    """
    short = _classes_where(support.counts < 2)
    if short:
        raise HeadError(
            f"Held-out logits need at least two examples of every class; class {_listed(short)} has fewer. At one "
            "shot nothing can be held out: use the defaults."
        )


def _classes_where(condition: Tensor) -> list[int]:
    """Classes for which it holds ``(..., C)`` in any episode."""
    return condition.reshape(-1, condition.shape[-1]).any(0).nonzero().flatten().tolist()


def _transform(support: Tensor, base_mean: Tensor | None, centre: bool, normalize: bool) -> FeatureTransform:
    if not centre or (base_mean is None and support.shape[-2] == 0):
        return FeatureTransform(normalize=normalize)
    mean = support.double().mean(-2) if base_mean is None else base_mean
    return FeatureTransform(centre=mean.to(support.dtype), normalize=normalize)


def centred_prior(prior: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Label embeddings ``(..., C, D)`` of length 1, less their mean over the classes."""
    if prior is None:
        return None
    unit = torch.nn.functional.normalize(prior.double(), dim=-1)
    return (unit - unit.mean(-2, keepdim=True)).to(dtype)


def _check_shapes(support: Tensor, labels: Tensor, prior: Tensor | None, base_mean: Tensor | None) -> None:
    if support.ndim < 2 or not support.is_floating_point():
        raise HeadError(f"Supports are floats of shape (..., n, D), got {support.dtype} {tuple(support.shape)}.")
    if labels.shape != support.shape[:-1] or labels.dtype != torch.int64:
        raise HeadError(
            f"Labels are one integer (torch.long) a support, here of shape {tuple(support.shape[:-1])}; got "
            f"{labels.dtype} {tuple(labels.shape)}."
        )
    dimension = support.shape[-1]
    if prior is not None and (prior.ndim < 2 or prior.shape[-1] != dimension):
        raise HeadError(
            f"The prior is a label embedding a class, from the encoder of the supports: (C, {dimension}); got "
            f"{tuple(prior.shape)}."
        )
    if base_mean is not None and base_mean.shape != (dimension,):
        raise HeadError(f"base_mean has the shape ({dimension},) of one embedding, got {tuple(base_mean.shape)}.")
    for name, value in (("Support embeddings", support), ("The prior", prior), ("base_mean", base_mean)):
        if value is not None and not bool(value.isfinite().all()):
            raise HeadError(
                f"{name} must be finite, got NaN or infinite values. Look for empty inputs, or an encoder in float16."
            )


def _check_classes(labels: Tensor, num_classes: int, prior: Tensor | None) -> None:
    if num_classes < 2:
        raise HeadError(
            f"A classifier needs at least two classes, got {num_classes}. Add examples of another class, or label "
            "embeddings of every class as prior."
        )
    if prior is not None and prior.shape[-2] != num_classes:
        raise HeadError(f"{num_classes} classes need as many label embeddings as prior, got {prior.shape[-2]}.")
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
        raise HeadError(
            f"Labels of {num_classes} classes run from 0 to {num_classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}."
        )


def _listed(classes: list[int]) -> str:
    return ", ".join(map(str, classes[:5])) + (", …" if len(classes) > 5 else "")
