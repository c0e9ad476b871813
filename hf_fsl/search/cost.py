"""What a search costs: token-FLOPs, gradient steps and passes, evaluation included."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hf_fsl.search.space.architecture import Architecture, adapter_parameters
from hf_fsl.search.space.sites import Sites


@dataclass
class Meter:
    """Counts by the usual rule (Kaplan et al. 2020): 2 FLOPs a parameter and token for a forward pass, 2 for the
    gradients that go back through it, 2 for those of the weights that are trained.

    Gradients go from the head down to the lowest adapted layer.
    Look-ups of embeddings and singular value decompositions are not counted, padding is.
    """

    layer_parameters: tuple[int, ...]
    head_parameters: int
    image_tokens: tuple[float, ...] | None = None
    """Of one image in each layer; None for texts, whose tokens are those of the batch."""
    forward_flops: float = 0.0
    backward_flops: float = 0.0
    gradient_steps: int = 0
    seconds: float = 0.0
    """Of what was timed by :meth:`timed`."""

    @classmethod
    def of(cls, model: nn.Module, sites: Sites, batch: Mapping[str, Tensor]) -> Meter:
        """A meter of a model, of whose layers only the frozen parameters count.

        Args:
            batch: a batch of model inputs, which tells how many tokens an image is in each layer.
        """
        sizes = tuple(
            sum(p.numel() for n, p in model.get_submodule(name).named_parameters() if "lora_" not in n)
            for name in sites.layers
        )
        tokens = None if "input_ids" in batch else _image_tokens(model, sites, batch)
        return cls(sizes, sites.head_parameters, tokens)

    @property
    def flops(self) -> float:
        return self.forward_flops + self.backward_flops

    def empty(self) -> Meter:
        """A meter of the same model that has counted nothing."""
        return Meter(self.layer_parameters, self.head_parameters, self.image_tokens)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the seconds that its body takes."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started

    def forward(self, batch: Mapping[str, Any], architecture: Architecture, sites: Sites) -> None:
        """A forward pass."""
        self.forward_flops += self._cost(batch, architecture, sites, 0)

    def backward(
        self, batch: Mapping[str, Any], architecture: Architecture, sites: Sites, weights: bool = False
    ) -> None:
        """A backward pass, down to the lowest adapted layer; with ``weights`` to the encoder's own weights too."""
        first = architecture.first_layer
        lowest = len(self.layer_parameters) if first is None else first
        cost = self._cost(batch, architecture, sites, lowest)
        trained = self._cost(batch, architecture, sites, lowest if weights else len(self.layer_parameters))
        self.backward_flops += cost + trained

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {
            "token_flops": self.flops,
            "forward_flops": self.forward_flops,
            "backward_flops": self.backward_flops,
            "gradient_steps": self.gradient_steps,
        }

    def _cost(self, batch: Mapping[str, Any], architecture: Architecture, sites: Sites, first_layer: int) -> float:
        examples = len(next(iter(batch.values())))
        if self.image_tokens is None:
            tokens = [float(batch["input_ids"].numel())] * len(self.layer_parameters)
        else:
            tokens = [examples * each for each in self.image_tokens]
        work = sum(
            size * count for size, count in zip(self.layer_parameters[first_layer:], tokens[first_layer:], strict=True)
        )
        average = sum(tokens) / len(tokens)
        return 2 * (work + adapter_parameters(architecture, sites) * average + self.head_parameters * examples)


def _image_tokens(model: nn.Module, sites: Sites, batch: Mapping[str, Tensor]) -> tuple[float, ...]:
    import torch

    found: dict[str, float] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            # (N, T, D), or (N, C, H, W) where each position is a token
            positions = hidden.shape[1] if hidden.ndim == 3 else hidden.shape[2] * hidden.shape[3]
            found[name] = float(positions)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in sites.layers]
    try:
        with torch.no_grad():
            model(**{name: value[:1] for name, value in batch.items()})
    finally:
        for handle in handles:
            handle.remove()
    return tuple(found[name] for name in sites.layers)
