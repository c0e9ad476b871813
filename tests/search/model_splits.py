"""Splits for the tiny models of the test suite."""

from __future__ import annotations

import torch
from conftest import model_inputs
from planted import MemorySplit


def split_of(kind: str, count: int, seed: int = 0) -> MemorySplit:
    """Random inputs of a tiny model of that kind, of three random classes."""
    generator = torch.Generator().manual_seed(seed)
    return MemorySplit(model_inputs(kind, count), torch.randint(0, 3, (count,), generator=generator))
