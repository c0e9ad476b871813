"""Splits in memory, and a model in which one site alone can make a difference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn


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


class Block(nn.Module):
    """Residual layers, each behind a gate: where the gate is 0, no adapter in it can reach the output."""

    def __init__(self, width: int, gates: dict[str, float]) -> None:
        super().__init__()
        self.q_proj, self.o_proj, self.fc1 = (nn.Linear(width, width) for _ in range(3))
        self.attention = nn.Module()
        self.attention.q_proj, self.attention.o_proj = self.q_proj, self.o_proj
        del self.q_proj, self.o_proj
        self.gates = gates

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for name, layer in (("q", self.attention.q_proj), ("o", self.attention.o_proj), ("f", self.fc1)):
            hidden = hidden + self.gates[name] * layer(hidden)
        return hidden


class PlantedModel(nn.Module):
    """Four blocks; the head sees half of the hidden state, the labels depend on the other half.

    Only the site whose gate is open can carry what the labels depend on over to the head.
    """

    def __init__(
        self, width: int = 16, layers: int = 4, classes: int = 2, site: tuple[int, str] | None = (2, "f")
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            Block(width, {name: float((layer, name) == site) for name in "qof"}) for layer in range(layers)
        )
        for parameter in self.layers.parameters():
            nn.init.zeros_(parameter)
        self.classifier = nn.Linear(width // 2, classes)
        self.half = width // 2

    def forward(self, pixel_values: torch.Tensor) -> Any:
        hidden = pixel_values
        for layer in self.layers:
            hidden = layer(hidden)
        return SimpleNamespace(logits=self.classifier(hidden[:, 0, self.half :]))


def planted_split(count: int, seed: int, width: int = 16, random_labels: bool = False) -> MemorySplit:
    """Inputs ``(N, 1, width)`` whose first number's sign is the label, or nothing is."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 1, width, generator=generator)
    labels = (inputs[:, 0, 0] > 0).long()
    if random_labels:
        labels = torch.randint(0, 2, (count,), generator=generator)
    return MemorySplit({"pixel_values": inputs}, labels)
