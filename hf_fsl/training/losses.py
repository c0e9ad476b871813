"""Losses: of classification, as sums with their denominators, exact whatever way a batch is cut up; and of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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


class MetricLossError(UserError, ValueError):
    """Embeddings and labels that a metric loss is not defined for."""


@dataclass(frozen=True)
class MetricLoss:
    """A loss of the embeddings and labels of a batch. Embeddings are L2-normalised first.

    An example that is alone of its class in the batch is compared to by the others, and asks for nothing itself.

    Args:
        name: ``supervised_contrastive``: the sum over positives is outside the logarithm (Khosla et al. 2020, eq. 2);
            ``prototypical``: cross-entropy over the squared distances to the class means, each example left out of its
            own (Snell et al. 2017, every example of the batch being query and support); ``triplet``: the
            farthest positive against the nearest negative (batch-hard, Hermans et al. 2017).
        temperature: cosines are divided by it (supervised contrastive), and half the squared distances (prototypical).
        margin: of the hinge between the two distances of a triplet; None: softplus instead of a hinge.
    """

    name: Literal["supervised_contrastive", "prototypical", "triplet"] = "supervised_contrastive"
    temperature: float = 0.1
    margin: float | None = None

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean over the examples that have another of their class in the batch.

        Args:
            embeddings: ``(B, D)``.
            labels: ``(B,)``, integers; which ones does not matter.

        Raises:
            MetricLossError: no two examples are of one class, or all are.
        """
        embeddings = F.normalize(embeddings.float(), dim=-1)
        same = labels[:, None] == labels[None, :]
        asking = same.sum(1) > 1
        if not asking.any() or same.all():
            raise MetricLossError(
                f"A metric loss needs two examples of one class and one of another in a batch; this one has labels "
                f"{labels.tolist()[:12]}. Draw at least 2 classes and 2 examples a class."
            )
        losses = {
            "supervised_contrastive": self._supervised_contrastive,
            "prototypical": self._prototypical,
            "triplet": self._triplet,
        }
        return losses[self.name](embeddings, labels, same)[asking].mean()

    def _supervised_contrastive(self, embeddings: Tensor, labels: Tensor, same: Tensor) -> Tensor:
        own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        logits = (embeddings @ embeddings.T / self.temperature).masked_fill(own, -torch.inf)
        log_shares = (logits - logits.logsumexp(1, keepdim=True)).masked_fill(own, 0.0)
        positives = same & ~own
        return -(log_shares * positives).sum(1) / positives.sum(1).clamp(min=1)

    def _prototypical(self, embeddings: Tensor, labels: Tensor, same: Tensor) -> Tensor:
        _, numbers = labels.unique(return_inverse=True)
        member = F.one_hot(numbers).to(embeddings.dtype)
        sums, counts = member.T @ embeddings, member.sum(0)
        distances = _squared_distances(embeddings, sums / counts[:, None])
        without = (sums[numbers] - embeddings) / (counts[numbers, None] - 1).clamp(min=1)
        to_own = (embeddings - without).square().sum(1)
        distances = distances.scatter(1, numbers[:, None], to_own[:, None])
        return F.cross_entropy(-distances / (2 * self.temperature), numbers, reduction="none")

    def _triplet(self, embeddings: Tensor, labels: Tensor, same: Tensor) -> Tensor:
        squared = _squared_distances(embeddings, embeddings)
        # The root has no gradient at 0, where two embeddings are the same (every example is at 0 from itself).
        distances = torch.where(squared > 1e-12, squared, 1e-12).sqrt()
        farthest = distances.masked_fill(~same, -torch.inf).amax(1)
        nearest = distances.masked_fill(same, torch.inf).amin(1)
        gap = farthest - nearest
        return F.softplus(gap) if self.margin is None else F.relu(gap + self.margin)


def _squared_distances(rows: Tensor, columns: Tensor) -> Tensor:
    squares = rows.square().sum(1)[:, None] + columns.square().sum(1)[None, :]
    return (squares - 2 * rows @ columns.T).clamp(min=0)
