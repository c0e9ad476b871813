"""The classification layer of a stock model: where it is, what it reads, and its fit to frozen features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_fsl.core.errors import UserError
from hf_fsl.training.losses import ClassificationLoss

LEAST_SPREAD = 0.05
"""Of features, as a share of their size: below, they are scaled by this share."""
WAY_OUT = "Use training.loss: cross_entropy and adapter.initialization: random, or another backbone."


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
            f"{type(model).__name__} has no trained linear layer with {classes} outputs, whose inputs a metric loss "
            f"could compare or a head be fitted to. {WAY_OUT}"
        )
    return found[-1]


@contextmanager
def read_by(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What a layer reads meanwhile, one tensor a call."""
    read: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    try:
        yield read
    finally:
        handle.remove()


def one_each(features: Tensor) -> Tensor:
    """What a classification layer reads, if it is ``(N, D)``.

    Raises:
        UserError: it is something else.
    """
    if features.ndim != 2:
        raise UserError(
            f"The classification layer reads {tuple(features.shape)}, a vector for each token, where a metric loss "
            f"and a fitted head need one for each example. {WAY_OUT}"
        )
    return features


def fit_linear(
    features: Tensor, labels: Tensor, classes: int, loss: ClassificationLoss, bias: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Weight ``(C, D)`` and bias ``(C,)`` of a logistic regression, in float64 on the CPU.

    Minimises the summed loss and half the squared weights, as scikit-learn with C=1, of features that are centred (if
    there is a bias to take that up) and scaled to a mean square distance of 1, so that their scale does not matter; to
    less where they hardly differ, since weights that tell them apart would be large and cancel in float32.

    Args:
        features: ``(N, D)``.
        labels: as ``loss`` takes them.
    """
    features, labels = features.detach().double().cpu(), labels.cpu()
    labels = labels.double() if labels.is_floating_point() else labels
    centre = features.mean(0) if bias else torch.zeros(features.shape[1], dtype=torch.float64)
    spread, size = ((features - origin).square().sum(1).mean().sqrt() for origin in (centre, 0.0))
    scale = max(float(spread), LEAST_SPREAD * float(size)) or 1.0
    centred = (features - centre) / scale
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(classes, dtype=torch.float64, requires_grad=bias)
    # The gradient says when it is done: near the minimum the loss hardly changes where the weights still do, and where
    # it then stops would depend on the order in which a processor adds.
    solver = torch.optim.LBFGS(
        [weight, offset] if bias else [weight],
        max_iter=500, tolerance_grad=1e-6, tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        value = loss(centred @ weight.T + offset, labels) + 0.5 * weight.square().sum()
        value.backward()
        return value

    solver.step(closure)
    found = weight.detach() / scale
    return found, offset.detach() - found @ centre if bias else None
