"""The optimiser step of a classification loss and a metric loss together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_fsl.config import TrainingConfig
from hf_fsl.errors import UserError
from hf_fsl.losses import ClassificationLoss
from hf_fsl.metric_losses import MetricLoss
from hf_fsl.training.update import Batch, Update

METRIC_LOSSES: dict[str, MetricLoss] = {
    "supervised_contrastive": MetricLoss("supcon"),
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
            with _read_by(self.layer) as read:
                logits = self.model(**inputs).logits
            if read[-1].ndim != 2:
                raise UserError(
                    f"training.loss: the classification layer reads {tuple(read[-1].shape)}, a vector for each token; "
                    "a metric loss needs one for each example. Use cross_entropy, or another backbone."
                )
            summed = summed + self.loss(logits, piece["labels"])
            features.append(read[-1])
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


def classification_layer(model: Any) -> nn.Linear:
    """The trained linear layer whose outputs are the classes.

    Raises:
        UserError: there is none.
    """
    classes = model.config.num_labels
    found = [
        module for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features == classes and module.weight.requires_grad
    ]  # fmt: skip
    if not found:
        raise UserError(
            f"training.loss: {type(model).__name__} has no trained linear layer with {classes} outputs, whose inputs "
            "a metric loss could compare. Use cross_entropy."
        )
    return found[-1]


@contextmanager
def _read_by(layer: nn.Module) -> Iterator[list[Tensor]]:
    read: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    try:
        yield read
    finally:
        handle.remove()
