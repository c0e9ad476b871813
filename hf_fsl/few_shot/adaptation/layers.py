"""An encoder cut at a layer: what enters it is computed once an example, what lies above as often as wanted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_fsl.few_shot.adaptation.sampling import AdaptationError


class _Reached(Exception):
    """Ends a forward pass at the cut."""


class LayerCut:
    """The encoder's layers, cut below one of them.

    Args:
        layers: called one after the other with the hidden states ``(B, T, D)`` first.
        first: the first of those above the cut.
    """

    def __init__(self, layers: nn.ModuleList, first: int) -> None:
        self.layers, self.first = list(layers), first

    def states_below(self, forward: Callable[[], Any]) -> Tensor:
        """What enters the first layer above the cut, ``(B, T, D)``; ``forward`` runs no further than that."""
        caught: list[Tensor] = []

        def catch(module: nn.Module, given: tuple[Any, ...]) -> None:
            caught.append(given[0].detach())
            raise _Reached

        handle = self.layers[self.first].register_forward_pre_hook(catch)
        try:
            with torch.no_grad():
                forward()
        except _Reached:
            pass
        finally:
            handle.remove()
        return caught[0]

    @contextmanager
    def entered_with(self, states: Tensor) -> Iterator[None]:
        """Forward passes inside the block begin at the cut, with these states ``(B, T, D)``."""

        def enter(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            return states, *given[1:]

        with ExitStack() as stack:
            for layer in self.layers[: self.first]:
                # The layer stays what it is: encoders read attributes of their layers.
                object.__setattr__(layer, "forward", _passed_through)
                stack.callback(object.__delattr__, layer, "forward")
            stack.callback(self.layers[self.first].register_forward_pre_hook(enter).remove)
            yield


def encoder_layers(model: nn.Module, forward: Callable[[], Any]) -> nn.ModuleList:
    """The layers that ``forward`` passes the hidden states through, the longest such list.

    Raises:
        AdaptationError: the model is no plain stack of layers.
    """
    entered: list[nn.Module] = []
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 0]
    handles = [
        child.register_forward_pre_hook(lambda module, given: entered.append(module) if _states(given) else None)
        for stack in lists
        for child in stack
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    found = [stack for stack in lists if all(any(child is module for module in entered) for child in stack)]
    # Lists within layers have elements of different kinds, or fewer of them.
    found = [stack for stack in found if len({type(child) for child in stack}) == 1]
    if not found:
        raise AdaptationError(
            f"first_layer: {type(model).__name__} is no plain stack of layers that can be cut. Leave it at 0."
        )
    return max(found, key=lambda stack: sum(parameter.numel() for parameter in stack.parameters()))


class StateStore:
    """States ``(T, D)`` of examples, computed when first asked for: in memory up to a size, then in a file.

    The file is read and written, not mapped: mapped pages would count as memory of the process.

    Args:
        max_bytes: of memory.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = self.left = max_bytes
        self.kept: dict[int, Tensor] = {}
        self.places: dict[int, tuple[int, tuple[int, ...]]] = {}
        self.dtype = torch.float32
        self._file: Any = None

    def __contains__(self, row: int) -> bool:
        return row in self.kept or row in self.places

    def put(self, row: int, states: Tensor) -> None:
        """Keeps the states of an example."""
        states = states.cpu()
        if states.nbytes <= self.left:
            self.left -= states.nbytes
            self.kept[row] = states.clone()
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self.dtype = states.dtype
        start = self._file.seek(0, os.SEEK_END)
        self._file.write(states.contiguous().view(torch.uint8).numpy().tobytes())
        self.places[row] = start, tuple(states.shape)

    def get(self, row: int) -> Tensor:
        """The states of an example that is kept, on the CPU."""
        if row in self.kept:
            return self.kept[row]
        start, shape = self.places[row]
        self._file.flush()
        size = int(np.prod(shape)) * self.dtype.itemsize
        values = np.frombuffer(os.pread(self._file.fileno(), size, start), dtype=np.uint8).copy()
        return torch.from_numpy(values).view(self.dtype).view(shape)

    def padded(self, rows: Sequence[int]) -> Tensor:
        """``(B, T, D)``, zero where a shorter example ends; no token that counts attends there."""
        return nn.utils.rnn.pad_sequence([self.get(row) for row in rows], batch_first=True)

    def clear(self) -> None:
        """Forgets everything, and gives the file's space back."""
        self.left = self.max_bytes
        self.kept.clear()
        self.places.clear()
        if self._file is not None:
            self._file.close()
            self._file = None


def _states(given: tuple[Any, ...]) -> bool:
    return bool(given) and isinstance(given[0], Tensor) and given[0].ndim == 3


def _passed_through(states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return states
