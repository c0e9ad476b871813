"""Losses of classification, as sums with their denominators: exact whatever way a batch is cut up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_fsl.core.errors import UserError


@dataclass(frozen=True)
class ClassificationLoss:
    """Cross-entropy for single-label tasks, binary cross-entropy for multi-label ones.

    ``loss(logits, labels)`` is a sum; divided by the sum of ``denominator(labels)`` over all pieces of a batch it is
    ``torch.nn.CrossEntropyLoss`` (or ``BCEWithLogitsLoss``) with mean reduction over the whole batch.

    Args:
        multi_label: labels are multi-hot ``(N, C)`` rather than indices ``(N,)``.
        class_weights: ``(C,)``, weight of each class.
        label_smoothing: share of the target spread evenly over the classes (Szegedy et al. 2016); of a multi-label
            task over the two answers, yes and no, of each class.
    """

    multi_label: bool = False
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Summed loss of logits ``(N, C)``, in float32, or in float64 where the logits are."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        weights = self.class_weights.to(logits) if self.class_weights is not None else None
        if self.multi_label:
            targets = labels.to(logits) * (1 - self.label_smoothing) + self.label_smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, targets, weight=weights, reduction="sum")
        return F.cross_entropy(logits, labels, weight=weights, reduction="sum", label_smoothing=self.label_smoothing)

    def denominator(self, labels: Tensor) -> float:
        """What the summed loss of these labels is divided by to become a mean."""
        if self.multi_label:
            return float(labels.numel())
        if self.class_weights is None:
            return float(len(labels))
        return float(self.class_weights[labels.cpu()].sum())


def class_weights(labels: Tensor, num_classes: int, choice: str | Sequence[float] | None) -> Tensor | None:
    """The weights that ``training.class_weights`` asks for.

    Args:
        labels: ``(N,)`` indices or ``(N, C)`` multi-hot.
        choice: ``"balanced"`` (n / (C · n_c), as in scikit-learn), one weight a class, or None.

    Raises:
        UserError: the number of weights is not the number of classes.
    """
    if choice is None:
        return None
    if isinstance(choice, str):
        counts = labels.sum(0) if labels.ndim == 2 else torch.bincount(labels, minlength=num_classes)
        return labels.shape[0] / (num_classes * counts.clamp(min=1).float())
    if len(choice) != num_classes:
        raise UserError(f"class_weights: one weight for each of the {num_classes} classes, got {len(choice)}.")
    return torch.tensor(list(choice), dtype=torch.float32)
