"""What a search learns from and what it validates on, both out of the same few labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
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


def split_support(labels: Sequence[int], validation_per_class: int, seed: int = 0) -> tuple[list[int], list[int]]:
    """Indices to train on and to validate on: so many of each class are set aside.

    Raises:
        SearchError: a class would keep no example to train on.
    """
    given = np.asarray(labels)
    rng = np.random.default_rng(seed)
    training: list[int] = []
    validation: list[int] = []
    for label in np.unique(given):
        members = rng.permutation(np.flatnonzero(given == label))
        if not 0 < validation_per_class < len(members):
            raise SearchError(
                f"validation_per_class: from 1 to below the {len(members)} examples of class {label}, "
                f"got {validation_per_class}. The others are what a search learns from."
            )
        validation += members[:validation_per_class].tolist()
        training += members[validation_per_class:].tolist()
    return sorted(training), sorted(validation)


def make_batch(split: Split, indices: Sequence[int], device: torch.device) -> tuple[Batch, Tensor]:
    """Model inputs and labels ``(N,)`` of some examples."""
    batch = split.collate([split[index] for index in indices])
    batch.pop("index", None)
    labels = batch.pop("labels")
    return {name: value.to(device) for name, value in batch.items()}, labels.to(device)
