"""The estimators by name, and what is made with them: heads, and logits of supports that were left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_fsl.core.renamed import RENAMED_ESTIMATORS, renamed_arguments
from hf_fsl.few_shot.heads.anchored import ANCHORED
from hf_fsl.few_shot.heads.estimator import Estimator
from hf_fsl.few_shot.heads.lda import LDA
from hf_fsl.few_shot.heads.logistic import LOGISTIC
from hf_fsl.few_shot.heads.named_lda import NAMED_LDA
from hf_fsl.few_shot.heads.nearest_mean import CL2N, COSINE, NEAREST_MEAN
from hf_fsl.few_shot.heads.ridge import RIDGE
from hf_fsl.few_shot.heads.support import (
    HeadError,
    SupportSet,
    read_support_set,
    require_every_class,
    require_two_of_every_class,
)
from hf_fsl.few_shot.heads.tip_adapter import CACHE
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import LinearHead

_ALL = (NEAREST_MEAN, COSINE, CL2N, LDA, RIDGE, LOGISTIC, ANCHORED, NAMED_LDA, CACHE)
ESTIMATORS: dict[str, Estimator] = {estimator.name: estimator for estimator in _ALL}
GROWING = tuple(estimator.name for estimator in _ALL if estimator.from_moments is not None)
"""Those that grow from sufficient statistics, without the support embeddings."""


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
        label_embeddings: ``(..., C, D)``, of the label texts, from the supports' encoder; for the estimators that use
            them.
        base_mean: ``(D,)``, taken away by ``centre``; None: the mean of the supports.
        weights: ``(..., n)``, above 0: a support of weight 2 is as good as the same given twice.
        centre: whether ``base_mean`` is taken from embeddings; None: as the estimator does.
        normalize: whether embeddings are then brought to length 1; None: as the estimator does.
        **hyperparameters: see ``ESTIMATORS[name].hyperparameters()``.

    Returns:
        A head in float32 (float64 for float64 supports).

    Raises:
        HeadError: an unknown name or hyperparameter, or a support set that the estimator cannot use.
    """
    estimator = find_estimator(name, hyperparameters)
    given = _read(
        estimator, support, labels, num_classes=num_classes, label_embeddings=label_embeddings, base_mean=base_mean,
        weights=weights, centre=centre, normalize=normalize,
    )  # fmt: skip
    return estimator.head_of(given, hyperparameters)


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
    """What each support gets from a head fitted without it, the transform held.

    Leave-one-out in closed form, a support with all its weight; for "logistic" by stratified k-fold.

    Args:
        name: this and what follows as for ``fit_head``.
        support: ``(..., n, D)``.
        labels: ``(..., n)``.
        num_classes: C.
        label_embeddings: ``(..., C, D)``.
        base_mean: ``(D,)``.
        weights: ``(..., n)``.
        centre: see there.
        normalize: see there.
        folds: how many, where there is no closed form.
        **hyperparameters: see there.

    Returns:
        Logits ``(..., n, C)``.

    Raises:
        HeadError: as ``fit_head``, or a class has fewer than two supports.
    """
    estimator = find_estimator(name, hyperparameters)
    given = _read(
        estimator, support, labels, num_classes=num_classes, label_embeddings=label_embeddings, base_mean=base_mean,
        weights=weights, centre=centre, normalize=normalize,
    )  # fmt: skip
    require_two_of_every_class(given)
    if estimator.leave_one_out is not None:
        logits = estimator.leave_one_out(given, **hyperparameters)
    else:
        logits = _k_fold_logits(lambda part: estimator.head_of(part, hyperparameters), given, folds)
    return logits.to(given.features.dtype)


def find_estimator(name: str, hyperparameters: dict[str, Any]) -> Estimator:
    """The estimator of that name.

    Args:
        name: among ``ESTIMATORS``.
        hyperparameters: those that it is asked to have.

    Returns:
        The one in the registry.

    Raises:
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


def _read(
    estimator: Estimator,
    support: Tensor,
    labels: Tensor,
    *,
    label_embeddings: Tensor | None,
    centre: bool | None,
    normalize: bool | None,
    **options: Any,
) -> SupportSet:
    """The support set in the transform that is asked for; ``options`` as of ``read_support_set``."""
    asked = (estimator.centre if centre is None else centre, estimator.normalize if normalize is None else normalize)
    if estimator.transform_is_fixed and asked != (estimator.centre, estimator.normalize):
        raise HeadError(
            f"{estimator.name} is defined with centre={estimator.centre} and normalize={estimator.normalize}; got "
            f"centre={asked[0]}, normalize={asked[1]}. 'nearest_mean' takes any transform."
        )
    given = read_support_set(
        support, labels, label_embeddings=label_embeddings, centre=asked[0], normalize=asked[1], **options
    )
    if not (estimator.uses_label_embeddings and label_embeddings is not None):
        require_every_class(given, estimator.name)
    return given


def _k_fold_logits(fit: Callable[[SupportSet], LinearHead | CacheHead], support: SupportSet, folds: int) -> Tensor:
    """Logits ``(..., n, C)`` of each support from a head fitted on the folds it is not in, for want of a closed form.

    A class's supports go to the folds in turn, in the order given, so that with at least two of them none is empty
    when a fold is held out.

    Args:
        fit: transformed supports -> head.
        folds: at most; as many as the largest class has supports, if those are fewer.

    Raises:
        HeadError: fewer than two folds.
    """
    if folds < 2:
        raise HeadError(f"k-fold needs at least two folds, got {folds}.")
    batch = support.labels.shape[:-1]
    if batch:
        rows = [_k_fold_logits(fit, one, folds) for one in _one_by_one(support)]
        return torch.stack(rows).reshape(*batch, *rows[0].shape)
    counts = support.one_hot.cumsum(0)
    fold = ((counts * support.one_hot).sum(-1).long() - 1) % min(folds, int(support.members.max()))
    logits = support.one_hot.new_empty(support.one_hot.shape)
    for number in range(int(fold.max()) + 1):
        kept, out = fold != number, fold == number
        part = SupportSet.of(
            support.features[kept], support.labels[kept], support.num_classes, support.transform,
            support.label_embeddings, support.weights[kept],
        )  # fmt: skip
        head = fit(part)
        logits[out] = replace(head, transform=replace(head.transform, centre=None, projection=None, normalize=False))(
            support.features[out]
        )
    return logits


def _one_by_one(support: SupportSet) -> list[SupportSet]:
    episodes = support.labels.flatten(0, -2).shape[0]
    label_embeddings = support.label_embeddings
    if label_embeddings is not None:
        label_embeddings = label_embeddings.expand(*support.labels.shape[:-1], *label_embeddings.shape[-2:]).flatten(
            0, -3
        )
    return [
        SupportSet.of(
            support.features.flatten(0, -3)[i],
            support.labels.flatten(0, -2)[i],
            support.num_classes,
            support.transform,
            None if label_embeddings is None else label_embeddings[i],
            support.weights.flatten(0, -2)[i],
        )
        for i in range(episodes)
    ]
