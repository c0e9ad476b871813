"""Which directions a loss pulls a frozen model's weights in, and low-rank adapters that start along them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

NOISE = 1e-4
"""Share of the largest singular value below which one counts as zero."""


@dataclass(frozen=True)
class LayerGradient:
    """The gradient of a loss in one layer's weight, its leading singular triples.

    ``values`` ``(r,)`` descending; ``right`` ``(r, fan_in)``: rows are directions among the layer's inputs.
    """

    values: Tensor
    right: Tensor


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block a model is in evaluation mode; then each of its modules is in its own again: some (frozen batch
    norms) stay in evaluation mode while the rest is trained."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def only_trainable(model: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within the block some parameters of a model require gradients, no others, and it is in evaluation mode."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        with evaluating(model):
            yield
    finally:
        for parameter, required in wanted:
            parameter.requires_grad_(required)


def weight_gradients(
    model: nn.Module, weights: Mapping[str, nn.Parameter], losses: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Gradients of a sum of losses in some weights of a model, each in float32 and of its weight's shape.

    Meanwhile the model is in evaluation mode and nothing else requires a gradient; it is left as it was. Beside the
    weights there must be memory for as much again, and for the activations of one loss.

    Args:
        weights: parameters of the model, by any names.
        losses: computed one at a time, while the weights require gradients: a generator.
    """
    total = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    with only_trainable(model, weights.values()):
        for loss in losses:
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient
    return total


def leading(gradient: Tensor, fan_in: int, rank: int, transposed: bool = False) -> LayerGradient:
    """The leading singular triples of a weight's gradient.

    Args:
        gradient: of a linear layer or a convolution, the inputs last.
        fan_in: inputs of one output.
        transposed: the inputs come first, as in transformers' Conv1D.
    """
    matrix = gradient.T if transposed else gradient.reshape(-1, fan_in)
    kept = min(rank, *matrix.shape)
    if not bool(matrix.any()):
        return LayerGradient(torch.zeros(kept), torch.zeros(kept, fan_in))
    if min(matrix.shape) <= 1024:
        _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        _, values, basis = torch.svd_lowrank(matrix, q=kept + 8, niter=4)
        right = basis.T
    right = right[:kept]
    signs = right.gather(1, right.abs().argmax(1, keepdim=True)).sign()  # or they would depend on rounding
    return LayerGradient(values[:kept].cpu(), (right * signs).cpu())


def point_along(rows: Tensor, gradient: LayerGradient) -> None:
    """Turns the rows of A to the gradient's leading right singular vectors, each as long as it was. In place.

    With B at zero, the first step then moves B·A along the best approximation of the gradient at the rank of A (as in
    LoRA-GA, Wang et al. 2024, but without changing the base weights). Rows beyond the directions known stay.

    Args:
        rows: ``(r, fan_in)``.
    """
    values = gradient.values[: len(rows)].to(rows)
    # Below, singular vectors are those of rounding errors: C classes give a head's gradients a rank below C.
    known = (values > NOISE * values.max())[:, None]
    first = rows[: len(values)]
    directions = gradient.right[: len(values)].to(rows) * first.norm(dim=1, keepdim=True)
    rows[: len(values)] = torch.where(known, directions, first)


def low_rank_gradients(
    model: nn.Module, losses: Iterable[Tensor], accelerator: Accelerator | None = None
) -> dict[str, LayerGradient]:
    """Gradients at the layers of a model that have a LoRA (of any kind), as many triples as each has ranks.

    Args:
        losses: see :func:`weight_gradients`.
        accelerator: of several processes that know a part of the gradient each; None: this one knows all of it.
    """
    layers = _low_rank_layers(model)
    if not layers:
        return {}
    weights = {name: layer.get_base_layer().weight for name, layer in layers.items()}
    gradients = weight_gradients(model, weights, losses)
    if accelerator is not None and accelerator.num_processes > 1:
        gradients = {name: accelerator.reduce(gradient, "sum") for name, gradient in gradients.items()}
    return {
        name: leading(
            gradients[name], _rows(layer).shape[1], len(_rows(layer)),
            type(layer.get_base_layer()).__name__ == "Conv1D",
        )
        for name, layer in layers.items()
    }  # fmt: skip


def start_along(model: nn.Module, gradients: Mapping[str, LayerGradient]) -> None:
    """Turns a new LoRA's matrices A along the gradients of their layers. In place."""
    with torch.no_grad():
        for name, layer in _low_rank_layers(model).items():
            point_along(_rows(layer), gradients[name])


def _low_rank_layers(model: nn.Module) -> dict[str, Any]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and isinstance(getattr(module.get_base_layer(), "weight", None), nn.Parameter)
        and module.active_adapters[0] in module.lora_A
    }  # fmt: skip


def _rows(layer: Any) -> Tensor:
    """A as ``(r, fan_in)``; a view, of a convolution's too."""
    weight: Tensor = layer.lora_A[layer.active_adapters[0]].weight
    return weight.detach().flatten(1)
