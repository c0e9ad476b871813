"""Nearest means of many episodes from one product of the pool with itself."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_fsl.episodes import Episodes

_FLOPS, _GATHER, _COPY = 2e-11, 6e-9, 8e-10
"""Seconds of a multiply-add in a large product, of picking one number, of copying one number of a gathered row: on a
core of 2024. Only their proportions decide, and they are alike elsewhere."""
_SMALL = 4
"""How much longer a multiply-add takes in an episode's small product."""
_CELLS = 1 << 27
"""Of the product: half a gigabyte in float32."""


class PooledMeans:
    """Scores of queries against the means of supports, as sums of entries of the pool's Gram matrix.

    Args:
        embeddings: ``(N, D)``.
    """

    def __init__(self, embeddings: Tensor) -> None:
        self.size = len(embeddings)
        self.products = (embeddings @ embeddings.T).flatten()

    @staticmethod
    def cheaper(embeddings: Tensor, episodes: Episodes) -> bool:
        """Whether this takes fewer operations than gathering each episode's embeddings and multiplying them."""
        size, dimension = embeddings.shape
        count, ways, shots, queries = len(episodes), episodes.n_way, episodes.k_shot, episodes.query.shape[1]
        here = size**2 * dimension * _FLOPS + count * ways * shots * (queries + shots) * _GATHER
        rows = ways * shots + queries
        there = count * dimension * (rows * _COPY + queries * ways * _FLOPS * _SMALL)
        return size**2 <= _CELLS and here < there

    def scores(self, episodes: Episodes) -> Tensor:
        """``2 μ_c·z − ‖μ_c‖²``, the squared distance without ``‖z‖²``, turned round: ``(E, Q, n_way)``."""
        shots = episodes.k_shot
        starts = episodes.support * self.size
        cross = self._sums(starts, episodes.query.unsqueeze(1)).mul_(2 / shots)
        norms = self._picked(starts.unsqueeze(-1) + episodes.support.unsqueeze(-2)).sum((-1, -2)) / shots**2
        return cross.sub_(norms.unsqueeze(-1)).mT

    def _sums(self, starts: Tensor, columns: Tensor) -> Tensor:
        """Sums over the shots: ``(E, n_way, k)`` and ``(E, 1, Q)`` -> ``(E, n_way, Q)``; shot by shot, in a cache."""
        total = self._picked(starts[..., :1] + columns)
        for shot in range(1, starts.shape[-1]):
            total += self._picked(starts[..., shot, None] + columns)
        return total

    def _picked(self, index: Tensor) -> Tensor:
        if self.products.device.type == "cpu":
            # NumPy picks single numbers twice as fast as torch does.
            return torch.from_numpy(self.products.numpy()[index.numpy()])
        return self.products[index.to(self.products.device)]
