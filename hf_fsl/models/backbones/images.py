"""What image encoders give, which is not always tokens behind a class token: where the patches are, and what is pooled
of them unless the user says."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hf_fsl.models.backbones.errors import BackboneError
from hf_fsl.models.published.pooling import PATCH_POOLINGS, Pooling


def without_masking(model: Any) -> None:
    """ViT-MAE hides a share of the patches at random, in evaluation mode too: an encoder sees all of them."""
    if model.config.model_type == "vit_mae":
        model.config.mask_ratio = 0.0


def image_inputs(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """Pixels ``(B, 3, H, W)`` as arguments of an image encoder.

    ViT-MAE sorts its patches by noise even where it hides none; here they keep their order.
    """
    if model.config.model_type != "vit_mae":
        return {"pixel_values": pixels}
    count = _patches(model.config, pixels) or 0
    return {"pixel_values": pixels, "noise": torch.arange(count, device=pixels.device).expand(len(pixels), -1)}


def image_pooling(config: Any, output: Any, pixels: Tensor) -> Pooling:
    """The model's own pooler; where it has none, the class token; where there is none, the mean of the patches."""
    if getattr(output, "pooler_output", None) is not None:
        return "pooler"
    if getattr(config, "is_encoder_decoder", False):
        raise BackboneError(f"{config.model_type} looks for things in pictures; it gives no embedding of a picture.")
    return "cls" if leading_tokens(config, _states(config, output), pixels) else "mean"


def leading_tokens(config: Any, hidden: Tensor, pixels: Tensor) -> int:
    """How many tokens stand before the patches (class token, distillation token, registers); 0 in a feature map.

    Args:
        hidden: the encoder's last hidden state, ``(B, T, D)`` or ``(B, D, H', W')``.
        pixels: what it was computed from, ``(B, 3, H, W)``.
    """
    if hidden.ndim == 4:
        return 0
    patches = _patches(config, pixels)
    behind = getattr(config, "num_detection_tokens", None) or 0  # of YOLOS
    return 1 if patches is None else max(0, hidden.shape[1] - behind - patches)


def poolable(config: Any, output: Any, pixels: Tensor, pooling: Pooling) -> tuple[Tensor, int]:
    """The states that ``pool`` takes, and how many tokens of them stand before the patches.

    Raises:
        BackboneError: the encoder has no token that this pooling wants.
    """
    if pooling == "pooler":
        return pooler_output(output), 0
    hidden = _states(config, output)
    leading = leading_tokens(config, hidden, pixels)
    if not leading and pooling in ("cls", "last", "cls_patch_mean"):
        raise BackboneError(
            f"pooling={pooling!r}: {config.model_type} gives patches only, without a class token. Use mean."
        )
    if pooling in PATCH_POOLINGS and getattr(config, "num_detection_tokens", None):
        raise BackboneError(f"pooling={pooling!r}: {config.model_type} has further tokens behind the patches.")
    return hidden, leading


def pooler_output(output: Any) -> Tensor:
    """What the model's own pooler gives. Raises BackboneError where it has none."""
    pooler = getattr(output, "pooler_output", None)
    if pooler is None:
        raise BackboneError("pooling: this model has no pooler; use cls, mean or last.")
    return pooler


def _states(config: Any, output: Any) -> Tensor:
    hidden: Any = getattr(output, "last_hidden_state", None)
    if hidden is None or hidden.ndim not in (3, 4) or not len(hidden):
        raise BackboneError(f"{config.model_type} gives no last hidden state to make an embedding of.")
    if hidden.ndim == 4 and hidden.shape[1] == hidden.shape[2] != hidden.shape[3]:
        raise BackboneError(f"{config.model_type} gives its feature map with the channels last, which is not read.")
    return hidden


def _patches(config: Any, pixels: Tensor) -> int | None:
    """Patches of a picture; None where the configuration does not say how large they are."""
    size: Any = getattr(config, "patch_size", None)
    if size is None:
        sizes = getattr(config, "patch_sizes", None)  # of stages, each of the patches of the one before
        size = math.prod(sizes) if sizes and all(isinstance(one, int) for one in sizes) else None
    if size is None:
        return None
    high, wide = (size, size) if isinstance(size, int) else (size[0], size[1])
    return (pixels.shape[-2] // high) * (pixels.shape[-1] // wide)
