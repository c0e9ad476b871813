"""Where training starts: a head fitted to the frozen features, and adapters along the gradient of what is left."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hf_fsl.data.encoding import EncodedSplit
from hf_fsl.models.adapters.gradients import LayerGradient, evaluating, low_rank_gradients, start_along
from hf_fsl.training.linear_probe import classification_layer, fit_linear, one_each, read_by
from hf_fsl.training.losses import ClassificationLoss
from hf_fsl.training.update import Batch, by_length

EXAMPLES = 1024
"""Examples a start is computed from, drawn from all where there are more."""
BATCH = 16

OnPass = Callable[[Batch, bool], None]


@dataclass(frozen=True)
class Start:
    """What :func:`find_start` finds, for any adapter of the same backbone.

    Attributes:
        head: weight ``(C, D)`` and bias ``(C,)`` of the classification layer; None: it stays as it is.
        gradients: of the layers that had a LoRA, by their names in the adapted model.
    """

    head: tuple[Tensor, Tensor | None] | None
    gradients: dict[str, LayerGradient]

    def apply(self, model: nn.Module) -> None:
        """Lets a model with a new adapter (or none) start here. In place; what the adapter computes is still 0."""
        if self.head is not None:
            _set(classification_layer(model), self.head)
        start_along(model, self.gradients)


def find_start(
    model: nn.Module,
    split: EncodedSplit,
    loss: ClassificationLoss,
    new_head: bool = True,
    on_pass: OnPass | None = None,
) -> Start:
    """The start that a few labelled examples give: first the head alone, then the directions that it leaves to learn.

    A random head sends gradients of random directions into the encoder, and takes it along into them; fitting it first
    is linear probing before fine-tuning (Kumar et al. 2022). The directions are those of LoRA-GA (Wang et al. 2024).

    Args:
        model: with a new adapter, on its device; stays as it is. Without LoRA there is a head alone.
        split: with labels; of more than ``EXAMPLES`` so many are drawn, the same on all processes.
        new_head: whether the head starts at random; one that was trained stays.
        on_pass: called with each batch of inputs after a forward pass (False) and after a forward and a backward
            pass (True) of the whole encoder.

    Raises:
        UserError: the model has no linear classification layer.
    """
    assert split.labels is not None
    rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:EXAMPLES].sort().values.tolist()
    device = next(model.parameters()).device
    layer, denominator = classification_layer(model), loss.denominator(split.labels[rows])
    before = copy.deepcopy(layer.state_dict())

    def passes(backward: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and labels, batch by batch."""
        for start in range(0, len(rows), BATCH):
            batch = split.collate([split[row] for row in rows[start : start + BATCH]])
            for piece in by_length({name: value.to(device) for name, value in batch.items()}):
                inputs = {name: value for name, value in piece.items() if name not in ("labels", "index")}
                yield model(**inputs).logits, piece["labels"]
                if on_pass is not None:
                    on_pass(inputs, backward)

    try:
        head = None
        if new_head:
            features, labels = _read(model, layer, passes(False))
            head = fit_linear(features, labels, layer.out_features, loss, layer.bias is not None)
            _set(layer, head)
        gradients = low_rank_gradients(model, (loss(logits, labels) / denominator for logits, labels in passes(True)))
    finally:
        layer.load_state_dict(before)
    return Start(head, gradients)


def _read(model: nn.Module, layer: nn.Linear, passes: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """What the classification layer reads of frozen features, and the labels."""
    with evaluating(model), torch.no_grad(), read_by(layer) as read:
        labels = [labels for _, labels in passes]
    return torch.cat([one_each(features) for features in read]), torch.cat(labels)


def _set(layer: nn.Linear, head: tuple[Tensor, Tensor | None]) -> None:
    with torch.no_grad():
        layer.weight.copy_(head[0])
        if head[1] is not None:
            layer.bias.copy_(head[1])
