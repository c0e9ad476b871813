"""Nearest means of many episodes from one product of the pool with itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hf_fsl.few_shot.episodes.sampler import Episodes

_FLOP, _PICK, _COPY = 2e-11, 5e-9, 8e-10
"""Seconds of a multiply-add in a large product, of picking one number, of copying one number of a gathered row, on
one core. Only their proportions decide, and they are alike elsewhere."""
_SMALL = 4
"""How much longer a multiply-add takes in an episode's small product."""
_CELLS = 1 << 27
"""Of the product: half a gigabyte in float32."""
_BLOCKS = 4
"""Of rows, into which the product is cut."""
_ROWS = 2048
"""Rows of numbers picked at a time, so that their indices stay in a cache."""


class PooledMeans:
    """Scores of queries against the means of supports, as sums of entries of the pool's Gram matrix.

    The members are numbered by class, and the sums taken by pairs of classes, so that what is picked lies together.

    Args:
        embeddings: ``(N, D)``.
        episodes: over these; members that are in none of them are left out.
    """

    def __init__(self, embeddings: Tensor, episodes: Episodes) -> None:
        members = _members(embeddings, episodes)
        used = embeddings[members.to(embeddings.device)]
        self.number = torch.zeros(len(embeddings), dtype=torch.long)
        self.number[members] = torch.arange(len(members))
        self.size, self.classes = len(members), int(episodes.classes.max()) + 1
        self.products: np.ndarray = _gram(used).flatten().cpu().numpy()

    @staticmethod
    def cheaper(embeddings: Tensor, episodes: Episodes) -> bool:
        """Whether this takes less time than gathering each episode's embeddings and multiplying them."""
        size, dimension = len(_members(embeddings, episodes)), embeddings.shape[1]
        count, ways, shots, queries = len(episodes), episodes.n_way, episodes.k_shot, episodes.query.shape[1]
        here = size**2 * dimension * _FLOP + count * ways * shots * (queries + shots) * _PICK
        rows = ways * shots + queries
        there = count * dimension * (rows * _COPY + queries * ways * _FLOP * _SMALL)
        return size**2 <= _CELLS and here < there

    def scores(self, episodes: Episodes) -> Tensor:
        """``2 μ_c·z − ‖μ_c‖²``, the squared distance without ``‖z‖²``, turned round: ``(E, Q, n_way)``."""
        count, ways, shots = episodes.support.shape
        support, query = self.number[episodes.support], self.number[episodes.query]
        starts = (support * self.size).flatten(0, 1).numpy()
        classes = episodes.classes.flatten().numpy()
        of_own = np.arange(count * ways)
        norms = self._sums(starts, support.flatten(0, 1).numpy(), of_own, of_own, classes).sum(-1) / shots**2
        per_class = query.shape[1] // ways
        balanced = bool((episodes.query_labels == torch.arange(ways).repeat_interleave(per_class)).all())
        groups = ways if balanced else 1
        columns = query.reshape(count * groups, -1).numpy()
        episode, way, group = np.unravel_index(np.arange(count * ways * groups), (count, ways, groups))
        rows, of_query = episode * ways + way, episode * groups + group
        pair = classes[rows] * self.classes + classes[of_query] if balanced else classes[rows]
        cross = torch.from_numpy(self._sums(starts, columns, rows, of_query, pair)).view(count, ways, -1)
        return cross.mul_(2 / shots).sub_(torch.from_numpy(norms).view(count, ways, 1)).mT

    def _sums(
        self, starts: np.ndarray, columns: np.ndarray, rows: np.ndarray, of_query: np.ndarray, key: np.ndarray
    ) -> np.ndarray:
        """``Σ_s G[starts[rows, s], columns[of_query]]``, ``(rows, q)``, computed in the order of the key."""
        small = key.astype(np.int16 if key.max() < 1 << 15 else np.int64)
        order = small.argsort(kind="stable")
        sums = np.empty((len(rows), columns.shape[1]), dtype=self.products.dtype)
        for start in range(0, len(order), _ROWS):
            some = order[start : start + _ROWS]
            shots, where = starts[rows[some]], columns[of_query[some]]
            index, picked = np.empty_like(where), np.empty(where.shape, dtype=sums.dtype)
            total = np.zeros_like(picked)
            for shot in shots.T:
                np.add(shot[:, None], where, out=index)
                total += self.products.take(index, out=picked, mode="clip")  # "clip": no check of bounds
            sums[some] = total
        return sums


def _gram(rows: Tensor) -> Tensor:
    """``rows @ rows.T``, of which little more than half is computed: the rest is the same mirrored."""
    size = len(rows)
    product = rows.new_empty(size, size)
    step = -(-size // _BLOCKS)
    for start in range(0, size, step):
        stop = start + step
        product[start:stop, start:] = rows[start:stop] @ rows[start:].T
        product[stop:, start:stop] = product[start:stop, stop:].T
    return product


def _members(embeddings: Tensor, episodes: Episodes) -> Tensor:
    """The examples that some episode uses, by class."""
    labels = torch.full((len(embeddings),), -1)
    labels[episodes.support] = episodes.classes.unsqueeze(-1).expand_as(episodes.support)
    labels[episodes.query] = episodes.classes.gather(1, episodes.query_labels)
    order = labels.argsort(stable=True)
    return order[labels[order] >= 0]
