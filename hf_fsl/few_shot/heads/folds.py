"""Held-out logits by stratified k-fold, for estimators without a closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hf_fsl.few_shot.heads.support import HeadError, Support
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import LinearHead


def k_fold_logits(fit: Callable[[Support], LinearHead | CacheHead], support: Support, folds: int) -> Tensor:
    """Logits ``(..., n, C)`` of each support from a head fitted on the folds it is not in; the transform is held.

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
        rows = [k_fold_logits(fit, one, folds) for one in _one_by_one(support)]
        return torch.stack(rows).reshape(*batch, *rows[0].shape)
    counts = support.one_hot.cumsum(0)
    fold = ((counts * support.one_hot).sum(-1).long() - 1) % min(folds, int(support.members.max()))
    logits = support.one_hot.new_empty(support.one_hot.shape)
    for number in range(int(fold.max()) + 1):
        kept, out = fold != number, fold == number
        part = Support.of(
            support.features[kept], support.labels[kept], support.num_classes, support.transform,
            support.label_embeddings, support.weights[kept],
        )  # fmt: skip
        head = fit(part)
        logits[out] = replace(head, transform=replace(head.transform, centre=None, projection=None, normalize=False))(
            support.features[out]
        )
    return logits


def _one_by_one(support: Support) -> list[Support]:
    episodes = support.labels.flatten(0, -2).shape[0]
    label_embeddings = support.label_embeddings
    if label_embeddings is not None:
        label_embeddings = label_embeddings.expand(*support.labels.shape[:-1], *label_embeddings.shape[-2:]).flatten(
            0, -3
        )
    return [
        Support.of(
            support.features.flatten(0, -3)[i],
            support.labels.flatten(0, -2)[i],
            support.num_classes,
            support.transform,
            None if label_embeddings is None else label_embeddings[i],
            support.weights.flatten(0, -2)[i],
        )
        for i in range(episodes)
    ]
