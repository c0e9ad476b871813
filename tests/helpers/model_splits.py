"""Splits for the tiny models of the test suite."""

from __future__ import annotations

from typing import Any

import torch

from tests.helpers.tiny_models import model_inputs


class MemorySplit:
    """Tensors as an encoded split."""

    def __init__(self, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> None:
        self.inputs, self.labels, self.lengths = inputs, labels, None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**{n: v[index] for n, v in self.inputs.items()}, "labels": self.labels[index], "index": index}

    def collate(self, items: Any) -> dict[str, torch.Tensor]:
        batch = {name: torch.stack([torch.as_tensor(item[name]) for item in items]) for name in items[0]}
        return batch


def split_of(kind: str, count: int, seed: int = 0) -> MemorySplit:
    """Random inputs of a tiny model of that kind, of three random classes."""
    generator = torch.Generator().manual_seed(seed)
    return MemorySplit(model_inputs(kind, count), torch.randint(0, 3, (count,), generator=generator))
