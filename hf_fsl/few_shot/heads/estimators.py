"""The estimators by name: (support embeddings, labels, label embeddings) -> LinearHead, or CacheHead for the cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hf_fsl.core.renamed import RENAMED_ESTIMATORS, renamed_arguments
from hf_fsl.few_shot.heads import anchored, named_lda, nearest_mean, tip_adapter
from hf_fsl.few_shot.heads.folds import k_fold_logits
from hf_fsl.few_shot.heads.lda import shrunk_lda, shrunk_lda_held_out
from hf_fsl.few_shot.heads.logistic import logistic
from hf_fsl.few_shot.heads.ridge import ridge, ridge_held_out
from hf_fsl.few_shot.heads.support import (
    HeadError,
    Support,
    read_support,
    require_every_class,
    require_two_of_every_class,
)
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import LinearHead


@dataclass(frozen=True)
class Estimator:
    """A way to make a head from a support set; what it takes beyond that are its hyperparameters."""

    name: str
    fit: Callable[..., tuple[Tensor, Tensor] | CacheHead]
    """Support -> W and b, or a CacheHead."""
    leave_one_out: Callable[..., Tensor] | None
    """Support -> leave-one-out logits, in closed form; None: by k-fold."""
    centre: bool = False
    normalize: bool = False
    """The transform, unless asked otherwise."""
    transform_is_fixed: bool = False
    """Whether the method is defined by its transform, so that no other may be asked for."""
    uses_label_embeddings: bool = False

    def hyperparameters(self) -> dict[str, Any]:
        """Names and defaults."""
        parameters = inspect.signature(self.fit).parameters.values()
        return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}

    def __call__(self, support: Tensor, labels: Tensor, **options: Any) -> LinearHead | CacheHead:
        return fit_head(self.name, support, labels, **options)


@dataclass(frozen=True)
class HeadTrial:
    """A setting that was tried."""

    estimator: str
    hyperparameters: dict[str, Any]
    loss: float
    """Mean held-out negative log likelihood at the setting's own best temperature."""
    accuracy: float
    """Of the held-out predictions."""
    weight: float = 0.0
    """Its part of what was chosen."""


@dataclass(frozen=True)
class HeadChoice:
    """What was chosen, and why."""

    head: LinearHead | CacheHead
    estimator: str
    hyperparameters: dict[str, Any]
    """``fit_head(estimator, …, **hyperparameters).scaled(1 / temperature)`` is the head."""
    temperature: float
    """Already in the head."""
    reason: str
    table: tuple[HeadTrial, ...] = field(repr=False, default=())
    held_out_logits: Tensor | None = field(repr=False, default=None)
    """``(n, C)``, temperature applied: of each support from a head fitted without it. NaN for the only support of its
    class, and for what was not held out of many (see ``HELD_OUT_CELLS``). None where no class has two."""


_ALL = (
    Estimator("nearest_mean", nearest_mean.euclidean, nearest_mean.euclidean_held_out),
    Estimator("cosine", nearest_mean.angular, nearest_mean.angular_held_out, normalize=True, transform_is_fixed=True),
    Estimator(
        "cl2n",
        nearest_mean.euclidean,
        nearest_mean.euclidean_held_out,
        centre=True,
        normalize=True,
        transform_is_fixed=True,
    ),
    Estimator("lda", shrunk_lda, shrunk_lda_held_out),
    Estimator("ridge", ridge, ridge_held_out),
    Estimator("logistic", logistic, None),
    Estimator(
        "anchored",
        anchored.anchored,
        anchored.anchored_held_out,
        normalize=True,
        uses_label_embeddings=True,
    ),
    Estimator(
        "named_lda", named_lda.named_lda, named_lda.named_lda_held_out, normalize=True, uses_label_embeddings=True
    ),
    Estimator(
        "cache",
        tip_adapter.tip_adapter,
        tip_adapter.tip_adapter_held_out,
        normalize=True,
        transform_is_fixed=True,
        uses_label_embeddings=True,
    ),
)
ESTIMATORS: dict[str, Estimator] = {one.name: one for one in _ALL}


@renamed_arguments(prior="label_embeddings")
def fit_head(
    name: str,
    support: Tensor,
    labels: Tensor,
    *,
    num_classes: int | None = None,
    label_embeddings: Tensor | None = None,
    base_mean: Tensor | None = None,
    weights: Tensor | None = None,
    centre: bool | None = None,
    normalize: bool | None = None,
    **hyperparameters: Any,
) -> LinearHead | CacheHead:
    """A head from a support set, or one for each of a batch of them.

    Example::

        head = fit_head("lda", support, labels, shrinkage=0.5)  # (n, D), (n,)
        predictions = head(queries).argmax(-1)

    Args:
        name: among ``ESTIMATORS``.
        support: embeddings ``(..., n, D)``.
        labels: class indices ``(..., n)``; counts may differ from class to class.
        num_classes: C; None: as many as there are label embeddings, or as the labels name.
        label_embeddings: ``(..., C, D)``, of the label texts, from the supports' encoder, for estimators that
            use them.
        base_mean: ``(D,)``, taken away by ``centre``; None: the mean of the supports.
        weights: ``(..., n)``, above 0: a support of weight 2 is as good as the same given twice.
        centre, normalize: the feature transform; None: the estimator's own.
        hyperparameters: see ``ESTIMATORS[name].hyperparameters()``.

    Returns:
        A head in float32 (float64 for float64 supports).

    Raises:
        HeadError: an unknown name or hyperparameter, or a support set that the estimator cannot use.
    """
    estimator = find_estimator(name, hyperparameters)
    read = _read(
        estimator,
        support,
        labels,
        num_classes,
        label_embeddings,
        base_mean,
        weights,
        centre=centre,
        normalize=normalize,
    )
    return head_of(estimator, read, hyperparameters)


@renamed_arguments(prior="label_embeddings")
def held_out_logits(
    name: str,
    support: Tensor,
    labels: Tensor,
    *,
    num_classes: int | None = None,
    label_embeddings: Tensor | None = None,
    base_mean: Tensor | None = None,
    weights: Tensor | None = None,
    centre: bool | None = None,
    normalize: bool | None = None,
    folds: int = 5,
    **hyperparameters: Any,
) -> Tensor:
    """Logits ``(..., n, C)`` of each support from a head fitted without it, the transform held.

    Leave-one-out, with all its weight, in closed form; for "logistic" by stratified k-fold. Arguments as for
    ``fit_head``.

    Raises:
        HeadError: as ``fit_head``, or a class has fewer than two supports.
    """
    estimator = find_estimator(name, hyperparameters)
    read = _read(
        estimator,
        support,
        labels,
        num_classes,
        label_embeddings,
        base_mean,
        weights,
        centre=centre,
        normalize=normalize,
    )
    require_two_of_every_class(read)
    if estimator.leave_one_out is not None:
        logits = estimator.leave_one_out(read, **hyperparameters)
    else:
        logits = k_fold_logits(lambda part: head_of(estimator, part, hyperparameters), read, folds)
    return logits.to(read.features.dtype)


def find_estimator(name: str, hyperparameters: dict[str, Any]) -> Estimator:
    """Raises:
    HeadError: the name, or one of the hyperparameters, is not known.
    """
    if name not in ESTIMATORS:
        renamed = f", which is now called {RENAMED_ESTIMATORS[name]!r}" if name in RENAMED_ESTIMATORS else ""
        raise HeadError(f"A head is one of {', '.join(ESTIMATORS)}; got {name!r}{renamed}.")
    known = ESTIMATORS[name].hyperparameters()
    unknown = sorted(set(hyperparameters) - set(known))
    if unknown:
        raise HeadError(f"{name} has the hyperparameters {', '.join(known)}; got {', '.join(unknown)}.")
    return ESTIMATORS[name]


def head_of(estimator: Estimator, support: Support, hyperparameters: dict[str, Any]) -> LinearHead | CacheHead:
    """The head of a support set that has been read."""
    fitted = estimator.fit(support, **hyperparameters)
    if isinstance(fitted, CacheHead):
        return fitted
    dtype = support.features.dtype
    return LinearHead(fitted[0].to(dtype), fitted[1].to(dtype), support.transform)


def _read(
    estimator: Estimator,
    support: Tensor,
    labels: Tensor,
    num_classes: int | None,
    label_embeddings: Tensor | None,
    base_mean: Tensor | None,
    weights: Tensor | None,
    *,
    centre: bool | None,
    normalize: bool | None,
) -> Support:
    asked = (estimator.centre if centre is None else centre, estimator.normalize if normalize is None else normalize)
    if estimator.transform_is_fixed and asked != (estimator.centre, estimator.normalize):
        raise HeadError(
            f"{estimator.name} is defined with centre={estimator.centre} and normalize={estimator.normalize}; got "
            f"centre={asked[0]}, normalize={asked[1]}. 'nearest_mean' takes any transform."
        )
    read = read_support(
        support,
        labels,
        num_classes=num_classes,
        label_embeddings=label_embeddings,
        base_mean=base_mean,
        weights=weights,
        centre=asked[0],
        normalize=asked[1],
    )
    if not (estimator.uses_label_embeddings and label_embeddings is not None):
        require_every_class(read, estimator.name)
    return read
