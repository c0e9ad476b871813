"""From token states to one embedding."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from hf_fsl.models.backbones.classification import BackboneError

Pooling = Literal["cls", "mean", "pooler", "last", "patch_mean", "cls_patch_mean"]
PATCH_POOLINGS = ("patch_mean", "cls_patch_mean")
"""Of image encoders: the mean of the patches, and the class token beside it ``(B, 2D)``."""


def pool(hidden: Tensor, mask: Tensor | None, pooling: Pooling, leading: int = 1) -> Tensor:
    """Token states ``(B, T, D)``, or a feature map ``(B, D, H, W)``, -> ``(B, D)``.

    Args:
        mask: ``(B, T)``, 1 where there is a token that counts; None where all do. Padding may be on either side.
        pooling: ``cls`` takes the first token, ``last`` the last one, ``mean`` the mean of all; ``patch_mean`` the
            mean of the patches, ``cls_patch_mean`` the first token and then that mean, ``(B, 2D)``.
        leading: tokens before the patches: the class token, and registers.
    """
    if hidden.ndim == 4:
        hidden = hidden.flatten(2).mT
    if pooling in PATCH_POOLINGS:
        patches = hidden[:, leading:].mean(1)
        return patches if pooling == "patch_mean" else torch.cat([hidden[:, 0], patches], 1)
    if mask is None:
        return {"cls": hidden[:, 0], "last": hidden[:, -1], "mean": hidden.mean(1)}[pooling]
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    index = (mask.long() if pooling == "cls" else positions * mask.long()).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), index]


def pooler_output(output: Any) -> Tensor:
    """What the model's own pooler gives. Raises BackboneError where it has none."""
    pooler = getattr(output, "pooler_output", None)
    if pooler is None:
        raise BackboneError("pooling: this model has no pooler; use cls, mean or last.")
    return pooler
