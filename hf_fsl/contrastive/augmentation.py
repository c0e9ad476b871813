"""Random changes of pictures, in torch alone: one draw of numbers a picture, one pass over a batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_fsl.config.contrastive import AugmentationConfig

DRAWS = 10
"""Numbers drawn for each picture."""
_LUMA = (0.299, 0.587, 0.114)


def augment(pixels: Tensor, draws: Tensor, config: AugmentationConfig, may_flip: Tensor) -> Tensor:
    """Pictures changed as ``config`` says.

    Args:
        pixels: ``(B, 3, H, W)``, from 0 to 1.
        draws: ``(B, DRAWS)``, uniform from 0 to 1.
        may_flip: ``(B,)``, whether mirroring is harmless.

    Returns:
        ``(B, 3, H, W)``, from 0 to 1; what is moved in from outside repeats the border.
    """
    signed = 2 * draws - 1
    moved = _move(pixels, signed[:, :4], draws[:, 4], config, may_flip)
    return _recolour(moved, signed[:, 5:9], draws[:, 9], config)


def _move(pixels: Tensor, signed: Tensor, flip: Tensor, config: AugmentationConfig, may_flip: Tensor) -> Tensor:
    if not any((config.shift, config.scale, config.rotation, config.flip)):
        return pixels
    angle = signed[:, 0] * math.radians(config.rotation)
    zoom = 1 / (1 + config.scale * signed[:, 1])
    mirrored = (flip < config.flip) & may_flip
    side = torch.where(mirrored, -1.0, 1.0)
    # affine_grid maps where a pixel goes to where it comes from, in units of half the picture
    theta = torch.stack(
        [
            torch.stack([zoom * angle.cos() * side, -zoom * angle.sin(), 2 * config.shift * signed[:, 2]], 1),
            torch.stack([zoom * angle.sin() * side, zoom * angle.cos(), 2 * config.shift * signed[:, 3]], 1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _recolour(pixels: Tensor, signed: Tensor, grey: Tensor, config: AugmentationConfig) -> Tensor:
    def each(values: Tensor) -> Tensor:
        return values[:, None, None, None]

    if config.brightness:
        pixels = pixels * each(1 + config.brightness * signed[:, 0])
    if config.contrast:
        middle = pixels.mean((1, 2, 3), keepdim=True)
        pixels = middle + (pixels - middle) * each(1 + config.contrast * signed[:, 1])
    luma = pixels.new_tensor(_LUMA)
    if config.hue:
        pixels = _turn_hue(pixels, signed[:, 3] * config.hue * 2 * math.pi)
    amount = 1 + config.saturation * signed[:, 2]
    amount = torch.where(grey < config.grayscale, torch.zeros_like(amount), amount)
    if config.saturation or config.grayscale:
        shade = (pixels * luma[None, :, None, None]).sum(1, keepdim=True)
        pixels = shade + (pixels - shade) * each(amount)
    return pixels.clamp(0, 1)


def _turn_hue(pixels: Tensor, angle: Tensor) -> Tensor:
    """Turns the chroma plane of YIQ; greys, white among them, stay as they are."""
    to_yiq = pixels.new_tensor([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    one, none = torch.ones_like(angle), torch.zeros_like(angle)
    turn = torch.stack([one, none, none, none, angle.cos(), -angle.sin(), none, angle.sin(), angle.cos()], dim=1).view(
        -1, 3, 3
    )
    whole = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("bij,bjhw->bihw", whole, pixels)
