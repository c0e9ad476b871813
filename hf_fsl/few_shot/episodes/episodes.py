"""What an episode is: which examples are supports, and which are queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_fsl.core.errors import UserError


class EpisodeError(UserError, ValueError):
    """Episodes that cannot be drawn from these examples, or do not fit them."""


@dataclass(frozen=True)
class Episodes:
    """E episodes over N examples. Supports and queries are indices of examples, grouped by class."""

    classes: Tensor
    """``(E, n_way)``: labels in the data set; within an episode a class is known by its column here."""
    support: Tensor
    """``(E, n_way, k_shot)``."""
    query: Tensor
    """``(E, Q)``, Q = n_way · n_query; ``query.unflatten(1, (n_way, n_query))`` where every class has as many."""
    query_labels: Tensor
    """``(E, Q)``: columns of ``classes``."""

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, some: slice) -> Episodes:
        """A run of episodes."""
        return Episodes(self.classes[some], self.support[some], self.query[some], self.query_labels[some])

    @property
    def n_way(self) -> int:
        return self.classes.shape[1]

    @property
    def k_shot(self) -> int:
        return self.support.shape[2]

    @property
    def support_labels(self) -> Tensor:
        """``(E, n_way · k_shot)``: the columns of ``classes`` that belong to ``support.flatten(1)``."""
        return torch.arange(self.n_way).repeat_interleave(self.k_shot).expand(len(self), -1)
