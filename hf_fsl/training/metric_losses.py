"""Losses that pull the examples of a class together: over all pairs of a batch, whose embeddings cost nothing more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_fsl.core.errors import UserError


class MetricLossError(UserError, ValueError):
    """Embeddings and labels that a metric loss is not defined for."""


@dataclass(frozen=True)
class MetricLoss:
    """A loss of the embeddings and labels of a batch. Embeddings are L2-normalised first.

    An example that is alone of its class in the batch is compared to by the others, and asks for nothing itself.

    Args:
        name: ``supcon``: supervised contrastive, the sum over positives outside the logarithm (Khosla et al. 2020,
            eq. 2); ``prototypical``: cross-entropy over the squared distances to the class means, each example left
            out of its own (Snell et al. 2017, every example of the batch being query and support); ``triplet``: the
            farthest positive against the nearest negative (batch-hard, Hermans et al. 2017).
        temperature: cosines are divided by it (supcon), and half the squared distances (prototypical).
        margin: of the hinge between the two distances of a triplet; None: softplus instead of a hinge.
    """

    name: Literal["supcon", "prototypical", "triplet"] = "supcon"
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
        loss = {"supcon": self._supcon, "prototypical": self._prototypical, "triplet": self._triplet}[self.name]
        return loss(embeddings, labels, same)[asking].mean()

    def _supcon(self, embeddings: Tensor, labels: Tensor, same: Tensor) -> Tensor:
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
