"""Losses over all pairs of pictures and texts in a batch, where a text may be true of several pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ContrastiveLoss:
    """CLIP's or SigLIP's loss of a whole batch.

    Args:
        name: ``clip``: cross-entropy from pictures to texts and from texts to pictures, averaged (Radford et al.
            2021); ``siglip``: a binary cross-entropy for every pair, summed, by picture (Zhai et al. 2023).
    """

    name: Literal["clip", "siglip"] = "clip"

    def __call__(self, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None, positives: Tensor) -> Tensor:
        """The mean over the batch.

        Args:
            images, texts: ``(N, D)``, of length 1; text j is what was said of picture j.
            scale: of the cosines, that is one over the temperature.
            bias: of the logits, for siglip; None is 0.
            positives: ``(N, N)``, whether text j is true of picture i; the diagonal always is. What is true of a
                picture is never its negative: cross-entropy has its target spread evenly over the positives (Yang et
                al. 2022), the sigmoid loss counts each as a positive pair.
        """
        logits = scale * images.float() @ texts.float().T
        if self.name == "siglip":
            signs = 2 * positives.to(logits.dtype) - 1
            return -F.logsigmoid(signs * (logits if bias is None else logits + bias)).sum() / len(logits)
        return (_soft_cross_entropy(logits, positives) + _soft_cross_entropy(logits.T, positives.T)) / 2


def true_pairs(captions: Tensor, texts: Tensor) -> Tensor:
    """Which text is true of which picture.

    Args:
        captions: ``(N, M)``, ids of all captions of each picture, filled up with -1.
        texts: ``(N,)``, id of the text that was drawn for each.

    Returns:
        ``(N, N)``, True where text j is among the captions of picture i.
    """
    return (captions[:, :, None] == texts[None, None, :]).any(1)


def _soft_cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    targets = positives.to(logits.dtype)
    targets = targets / targets.sum(1, keepdim=True)
    return -(targets * torch.log_softmax(logits, dim=1)).sum(1).mean()
