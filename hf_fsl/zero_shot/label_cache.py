"""Label embeddings kept between calls, as long as the weights that made them are the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

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

    def find(self, key: Hashable) -> Tensor | None:
        """What is kept under this key."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: Hashable, value: Tensor) -> Tensor:
        """Keeps a tensor under a key that is not in use, and gives it back."""
        self._kept[key] = value
        self._bytes += value.nbytes
        while self._bytes > self.max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return value

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What is kept under this key; ``make()``, which is then kept, if nothing is."""
        found = self.find(key)
        return self.keep(key, make()) if found is None else found

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0


@torch.no_grad()
def weights_state(model: nn.Module) -> Hashable:
    """Differs after any training step, merge, or loading of weights; cheap enough for every call.

    Autograd's version counters see what is changed in place. What is changed through ``.data``, as merging an adapter
    does, they miss: two values of each parameter are compared as well.
    """
    versions = []
    ends: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for parameter in model.parameters():
        versions.append((parameter.data_ptr(), None if parameter.is_inference() else parameter._version))
        if parameter.numel():
            flat = parameter if parameter.is_contiguous() else parameter.reshape(-1)
            first_and_last = flat.as_strided((2,), (flat.numel() - 1,))
            ends.setdefault((parameter.device, parameter.dtype), []).append(first_and_last)
    return tuple(versions), tuple((kind, tuple(torch.cat(values).tolist())) for kind, values in ends.items())
