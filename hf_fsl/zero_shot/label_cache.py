"""Label embeddings kept between calls, as long as the weights that made them are the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

LABEL_CACHE_BYTES = 256 << 20


class RecentTensors:
    """The tensors used last, up to a number of bytes; the latest stays whatever its size.

    Args:
        max_bytes: of all tensors together.
    """

    def __init__(self, max_bytes: int = LABEL_CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What is kept under this key; ``make()``, which is then kept, if nothing is."""
        if key not in self._kept:
            self._kept[key] = make()
            self._bytes += self._kept[key].nbytes
            while self._bytes > self.max_bytes and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0


@torch.no_grad()
def weights_state(model: nn.Module) -> Hashable:
    """Differs after any training step, merge, or loading of weights; cheap enough for every call.

    Autograd's version counters see what is changed in place. What is changed through ``.data``, as merging an adapter
    does, they miss: two values of each parameter are compared as well.
    """
    state: list[Any] = []
    ends = []
    for parameter in model.parameters():
        version = None if parameter.is_inference() else parameter._version
        state.append((parameter.data_ptr(), version, parameter.dtype))
        flat = parameter.detach().view(-1) if parameter.is_contiguous() else parameter.detach().reshape(-1)
        ends.append(flat[:: max(1, flat.numel() - 1)][:2].float())
    by_device: dict[torch.device, list[Tensor]] = {}
    for end in ends:
        by_device.setdefault(end.device, []).append(end)
    return tuple(state), tuple(tuple(torch.cat(values).tolist()) for values in by_device.values())
