"""The optimiser step of a classification loss and a metric loss together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_fsl.config.sections import TrainingConfig
from hf_fsl.training.linear_probe import classification_layer, one_each, read_by
from hf_fsl.training.losses import ClassificationLoss, MetricLoss
from hf_fsl.training.update import Batch, Update

METRIC_LOSSES: dict[str, MetricLoss] = {
    "supervised_contrastive": MetricLoss("supervised_contrastive"),
    "prototypical": MetricLoss("prototypical"),
}
"""By the names of ``training.loss``."""


class MetricUpdate(Update):
    """Cross-entropy, and a metric loss on what the classification layer reads (Gunel et al. 2021).

    The metric loss compares the examples of a batch on one process, in whatever pieces they go through the model. One
    without two examples of a class, or of one class only, has nothing to compare.

    Raises:
        UserError: the model has no classification layer, or one that reads every token.
    """

    @cached_property
    def layer(self) -> nn.Linear:
        return classification_layer(self.accelerator.unwrap_model(self.model))

    def backward(self, group: Sequence[Batch]) -> Tensor:
        denominator = sum(self.loss.denominator(batch["labels"]) for batch in group)
        weight, total = self.config.metric_loss_weight, torch.zeros((), device=self.accelerator.device)
        for number, batch in enumerate(group, start=1):
            with self.accelerator.no_sync(self.model) if number < len(group) else nullcontext():
                summed, features, labels = self._forward(batch)
                value = (1 - weight) * summed / denominator
                value = value + weight * self._compared(features, labels) / len(group)
                self.accelerator.backward(value)
            total += value.detach()
        return self.accelerator.reduce(total, reduction="mean") if self.accelerator.num_processes > 1 else total

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Summed classification loss, features ``(B, D)`` and labels, in the order of the pieces."""
        summed, features, labels = torch.zeros((), device=self.accelerator.device), [], []
        for piece in self.cut_up([batch]):
            inputs = {name: value for name, value in piece.items() if name not in ("labels", "index")}
            with read_by(self.layer) as read:
                logits = self.model(**inputs).logits
            features.append(one_each(read[-1]))
            summed = summed + self.loss(logits, piece["labels"])
            labels.append(piece["labels"])
        return summed, torch.cat(features), torch.cat(labels)

    def _compared(self, features: Tensor, labels: Tensor) -> Tensor:
        counts = labels.unique(return_counts=True)[1]
        if len(counts) < 2 or counts.max() < 2:
            return features.sum() * 0
        return METRIC_LOSSES[self.config.loss](features, labels)


def classification_update(
    model: nn.Module, optimizer: Any, loss: ClassificationLoss, accelerator: Accelerator, config: TrainingConfig
) -> Update:
    """The step that ``training.loss`` asks for."""
    kind = Update if config.loss == "cross_entropy" else MetricUpdate
    return kind(model, optimizer, loss, accelerator, config)
