"""The order of training and of evaluation: seeded, the same on every process, resumable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

MEGABATCH = 50
"""Batches among which ``group_by_length`` sorts: enough to save padding, few enough to stay random."""


class TrainingBatches(Sampler[list[int]]):
    """Shuffled batches of indices; epoch e of seed s is always the same order.

    Args:
        size: number of examples.
        batch_size: examples a batch; the last batch of an epoch may be smaller.
        seed: of the order.
        lengths: with lengths, examples of like length are put together (batches stay in random order).
    """

    drop_last = False

    def __init__(self, size: int, batch_size: int, seed: int, lengths: Sequence[int] | None = None) -> None:
        self.size, self.batch_size, self.seed, self.epoch = size, batch_size, seed, 0
        self.lengths = torch.tensor(lengths) if lengths is not None else None

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def start_epoch(self, epoch: int) -> None:
        """Called by the loop. Not ``set_epoch``: Accelerate calls that by its own count, which a resume restarts."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator)
        if self.lengths is None:
            yield from (batch.tolist() for batch in order.split(self.batch_size))
            return
        batches: list[torch.Tensor] = []
        for chunk in order.split(MEGABATCH * self.batch_size):
            batches += chunk[self.lengths[chunk].argsort(stable=True)].split(self.batch_size)
        for position in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[position].tolist()


class EvaluationBatches(Sampler[list[int]]):
    """Every index once, longest first (so that what does not fit into memory fails at once)."""

    drop_last = False

    def __init__(self, size: int, batch_size: int, lengths: Sequence[int] | None = None) -> None:
        self.batch_size = batch_size
        order = torch.tensor(lengths).argsort(stable=True, descending=True) if lengths else torch.arange(size)
        self.batches = [batch.tolist() for batch in order.split(batch_size)] if size else []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
