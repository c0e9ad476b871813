"""Layers below the first adapted one give the same for every member: computed once, taken from memory after."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hf_fsl.search.space import Sites


class PrefixCache:
    """Outputs of the layers below the first adapted one, by batch.

    Valid for one frozen backbone in evaluation mode; adapters may only be active at and above the layer that is
    asked for. Encoders whose layers do not form one list (stages of a convolutional network, two towers) are run in
    full: their layers do not simply follow each other.

    Args:
        max_bytes: what does not fit into this any more is computed each time.
    """

    def __init__(self, model: nn.Module, sites: Sites, max_bytes: int = 1 << 30) -> None:
        self.layers: list[Any] = [model.get_submodule(name) for name in sites.layers]
        self.usable = len({name.rpartition(".")[0] for name in sites.layers}) == 1
        self.max_bytes, self.bytes = max_bytes, 0
        self.hits, self.misses = 0, 0
        self._outputs: dict[tuple[Hashable, int], Any] = {}

    @contextlib.contextmanager
    def reuse(self, batch: Hashable, first_layer: int | None) -> Iterator[int]:
        """A forward pass of ``batch`` inside takes the layers below ``first_layer`` (None: all) from memory.

        Yields:
            How many layers are taken from memory; 0 where they are computed, and kept for the next time.
        """
        depth = len(self.layers) if first_layer is None else first_layer
        if depth == 0 or not self.usable:
            yield 0
            return
        key = (batch, depth)
        if key in self._outputs:
            self.hits += 1
            kept = self._outputs[key]
            # What stands in for the lower layers does not matter: the last of them ignores its input.
            for layer in self.layers[:depth]:
                layer.forward = lambda *args, **kwargs: kept
            try:
                yield depth
            finally:
                for layer in self.layers[:depth]:
                    del layer.forward
            return
        self.misses += 1
        found: list[Any] = []
        handle = self.layers[depth - 1].register_forward_hook(lambda module, inputs, output: found.append(output))
        try:
            yield 0
        finally:
            handle.remove()
        if found:
            self._keep(key, found[-1])

    def clear(self) -> None:
        """Forgets everything: the backbone or the batches are others now."""
        self._outputs.clear()
        self.bytes = 0

    def _keep(self, key: tuple[Hashable, int], output: Any) -> None:
        tensors = output if isinstance(output, tuple) else (output,)
        size = sum(value.nbytes for value in tensors if isinstance(value, torch.Tensor))
        if self.bytes + size <= self.max_bytes:
            self._outputs[key] = _detached(output)
            self.bytes += size


def _detached(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_detached(value) for value in output)
    return output.detach() if isinstance(output, Tensor) else output
