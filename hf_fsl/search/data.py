"""What a search learns from and what it validates on, both out of the same few labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hf_fsl.search.errors import SearchError

Batch = dict[str, Tensor]


class Split(Protocol):
    """Encoded examples, as :class:`hf_fsl.inputs.EncodedSplit` holds them."""

    labels: Tensor | None
    lengths: list[int] | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def collate(self, items: Sequence[Any]) -> Batch: ...


@dataclass(frozen=True)
class SearchData:
    """The labelled examples of a search.

    Raises:
        SearchError: no examples, or examples without single labels.
    """

    train: Split
    validation: Split

    def __post_init__(self) -> None:
        for name, split in (("train", self.train), ("validation", self.validation)):
            if len(split) == 0 or split.labels is None or split.labels.ndim != 1:
                raise SearchError(f"A search needs {name} examples, each of one class; got {len(split)} without.")


def make_batch(split: Split, indices: Sequence[int], device: torch.device) -> tuple[Batch, Tensor]:
    """Model inputs and labels ``(N,)`` of some examples."""
    batch = split.collate([split[index] for index in indices])
    batch.pop("index", None)
    labels = batch.pop("labels")
    return {name: value.to(device) for name, value in batch.items()}, labels.to(device)
