"""From token states to one embedding. A new pooling is a function here, a line in ``POOLINGS``, and its name.

This file is published beside the weights of few-shot models: it imports torch only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["cls", "mean", "pooler", "last", "patch_mean", "cls_patch_mean"]
"""``pooler`` is the model's own, and needs no function."""


def pool(hidden: Tensor, mask: Tensor | None, pooling: str, leading: int = 1) -> Tensor:
    """Token states ``(B, T, D)``, or a feature map ``(B, D, H, W)``, -> ``(B, D)``.

    Args:
        mask: ``(B, T)``, 1 where there is a token that counts; None where all do. Padding may be on either side.
        pooling: one of :data:`POOLINGS`.
        leading: tokens before the patches: the class token, and registers.
    """
    if hidden.ndim == 4:
        hidden = hidden.flatten(2).mT
    return POOLINGS[pooling](hidden, mask, leading)


def _first_token(hidden: Tensor, mask: Tensor | None, leading: int) -> Tensor:
    return hidden[:, 0] if mask is None else _rows(hidden, mask.long().argmax(1))


def _last_token(hidden: Tensor, mask: Tensor | None, leading: int) -> Tensor:
    if mask is None:
        return hidden[:, -1]
    return _rows(hidden, (torch.arange(mask.shape[1], device=mask.device) * mask.long()).argmax(1))


def _mean(hidden: Tensor, mask: Tensor | None, leading: int) -> Tensor:
    if mask is None:
        return hidden.mean(1)
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def _patch_mean(hidden: Tensor, mask: Tensor | None, leading: int) -> Tensor:
    return hidden[:, leading:].mean(1)


def _cls_patch_mean(hidden: Tensor, mask: Tensor | None, leading: int) -> Tensor:
    return torch.cat([hidden[:, 0], _patch_mean(hidden, mask, leading)], 1)


def _rows(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), index]


POOLINGS: dict[str, Callable[[Tensor, Tensor | None, int], Tensor]] = {
    "cls": _first_token,
    "last": _last_token,
    "mean": _mean,
    "patch_mean": _patch_mean,
    "cls_patch_mean": _cls_patch_mean,
}
"""``cls`` takes the first token, ``last`` the last one, ``mean`` the mean of all; of image encoders ``patch_mean`` is
the mean of the patches, ``cls_patch_mean`` the first token and then that mean, ``(B, 2D)``."""
PATCH_POOLINGS = ("patch_mean", "cls_patch_mean")
"""Those that are of image encoders only."""
