"""Draws all episodes of an evaluation in a few tensor jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import gammaincinv
from torch import Tensor

from hf_fsl.few_shot.episodes.items import Columns, EpisodeError, ItemsByClass, chosen_classes, without_items


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


_CELLS = 1 << 17
"""Of the table of a chunk of rows: small enough for a core's own cache, which is what this costs or saves,"""
_LEAST_ROWS = 64
"""unless there is so much to draw from that the chunks would be too many."""


def without_replacement(uniform: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The first k positions of a random order of 0 … size − 1, for every row.

    Fisher and Yates' shuffle: step j swaps position j with one of j … size − 1. Memory does not grow with the rows,
    and time does not with the sizes, but for one table.

    Args:
        uniform: ``(rows, k)`` float64 in [0, 1), which decide.
        sizes: ``(rows,)`` how many there are to draw from; where size < k, what is beyond the size-th means nothing.

    Returns:
        ``(rows, k)`` int64.
    """
    rows, count = uniform.shape
    items = max(int(sizes.max()), count)
    width = min(rows, max(_LEAST_ROWS, _CELLS // items))
    steps = np.arange(count)[:, None]
    unshuffled = np.arange(items, dtype=np.int32)[:, None]
    table = np.repeat(unshuffled, width, axis=1)
    cells = table.reshape(-1)
    drawn = np.empty((rows, count), dtype=np.int64)
    for start in range(0, rows, width):
        some = slice(start, min(start + width, rows))
        here = some.stop - start
        left = np.maximum(sizes[some] - steps, 1)
        partners = steps + (uniform[some].T * left).astype(np.int64)
        where = partners * width + np.arange(here)
        values = np.empty((count, here), dtype=np.int32)
        for step in range(count):
            cells.take(where[step], out=values[step], mode="clip")
            # Position `step` is never looked at again: what it held moves to where the drawn one was.
            cells[where[step]] = table[step, :here]
        drawn[some] = values.T
        cells[where] = partners
    return drawn


@dataclass(frozen=True)
class EpisodeSampler:
    """Draws episodes; the same seed draws the same ones from the same examples, and fewer are the first of more.

    Args:
        n_way: classes in an episode.
        k_shot: supports of each of them.
        n_query: queries of each of them; with ``dirichlet`` their mean number.
        episodes: how many.
        dirichlet: None: every class has ``n_query`` queries. A number: an episode's ``n_way · n_query`` queries are
            divided among its classes by shares from a symmetric Dirichlet distribution with this α (Veilleux et al.
            2021, arXiv:2106.11984, take 2), rounded by largest remainder.

    Example::

        episodes = EpisodeSampler(5, 1, 15, episodes=1000, seed=0).sample(dataset["label"])
        supports = embeddings[episodes.support]  # (1000, 5, 1, D)
    """

    n_way: int
    k_shot: int
    n_query: int
    episodes: int
    seed: int = 0
    dirichlet: float | None = None

    def __post_init__(self) -> None:
        least = {"n_way": 2, "k_shot": 1, "n_query": 1, "episodes": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise EpisodeError(f"{name} is at least {bound}, not {getattr(self, name)}.")
        if self.dirichlet is not None and not self.dirichlet > 0:
            raise EpisodeError(f"dirichlet is above 0, not {self.dirichlet}; None gives every class as many queries.")

    def sample(
        self,
        labels: Sequence[int] | np.ndarray | Tensor,
        *,
        classes: Sequence[int] | Sequence[str] | None = None,
        ids: Sequence[Any] | None = None,
        support_from: Sequence[bool] | np.ndarray | Tensor | None = None,
        query_from: Sequence[bool] | np.ndarray | Tensor | None = None,
        label_names: Sequence[str] | None = None,
    ) -> Episodes:
        """Episodes over these examples. An example is never support and query of one episode.

        Args:
            labels: ``(N,)`` class indices, such as a data set's column.
            classes: the classes to draw from, by label or by name (a split by class); None: all that occur.
            ids: ``(N,)``: examples with equal ids (equal texts, one emoji in two styles) count as one thing, which is
                never support and query of one episode, nor twice in it.
            support_from: ``(N,)`` booleans: the examples that may be supports; None: all.
            query_from: ``(N,)`` booleans: the examples that may be queries; None: all.
            label_names: names of the labels, for errors, and for ``classes`` given by name.

        Returns:
            Indices of examples, the same for the same seed.

        Raises:
            EpisodeError: a class with too few examples, fewer classes than ``n_way``, an unknown class, columns that
                do not fit, or an id under two labels.
        """
        columns = Columns.read(labels, ids, support_from, query_from)
        chosen = chosen_classes(columns.labels, classes, label_names)
        if len(chosen) < self.n_way:
            raise EpisodeError(
                f"n_way={self.n_way} needs as many classes to draw from; there are {len(chosen)}. Lower n_way."
            )
        shared = support_from is None and query_from is None
        supports = ItemsByClass.build(columns, columns.support, chosen)
        queries = supports if shared else ItemsByClass.build(columns, columns.query, chosen)
        ways, shots, total = self.n_way, self.k_shot, self.n_way * self.n_query
        most = self.n_query if self.dirichlet is None else total
        take = self._numbers((1 + (self.dirichlet is not None) + (1 if shared else 2) * shots + most) * ways,
                             0 if ids is None else (shots + most) * ways)  # fmt: skip
        columns_drawn = without_replacement(take(ways), np.full(self.episodes, len(chosen)))
        counts = self._query_counts(take)
        need = int(counts.max())
        self._check(supports, queries, columns_drawn, counts, chosen, label_names)
        rows = columns_drawn.reshape(-1)
        if shared:
            drawn = without_replacement(take(ways, shots + most)[:, : shots + need], supports.size[rows])
            support, query = drawn[:, :shots], drawn[:, shots:]
        else:
            support = without_replacement(take(ways, shots), supports.size[rows])
            query = without_replacement(take(ways, shots + most)[:, : shots + need], queries.size[rows])
            query = without_items(query, support, queries, supports, rows)[:, :need]
        support = supports.examples(support, rows, take(ways, shots) if ids is not None else None)
        query = queries.examples(query, rows, take(ways, most)[:, :need] if ids is not None else None)
        of_class = np.broadcast_to(np.arange(ways).repeat(need), (self.episodes, ways * need))
        if self.dirichlet is not None:
            kept = np.arange(need) < counts.reshape(-1, 1)
            query, of_class = query[kept], of_class[kept.reshape(self.episodes, -1)]
        return Episodes(
            torch.from_numpy(np.asarray(chosen)[columns_drawn]),
            torch.from_numpy(support).view(self.episodes, ways, shots),
            torch.from_numpy(query).view(self.episodes, total),
            torch.from_numpy(of_class.reshape(self.episodes, total).copy()),
        )

    def _numbers(self, draws: int, copies: int) -> _Taker:
        """Uniform numbers, a row an episode, from one stream: the first rows do not depend on how many follow."""
        generator = np.random.Generator(np.random.PCG64(self.seed))
        return _Taker(generator.random((self.episodes, draws + copies)))

    def _query_counts(self, take: _Taker) -> np.ndarray:
        """Queries of each class of each episode ``(E, n_way)``."""
        if self.dirichlet is None:
            return np.full((self.episodes, self.n_way), self.n_query)
        # By the inverse of the distribution function, which takes one number for each, unlike the usual methods.
        gamma = gammaincinv(self.dirichlet, take(self.n_way))
        exact = gamma / gamma.sum(1, keepdims=True) * (self.n_way * self.n_query)
        whole = np.floor(exact)
        missing = self.n_way * self.n_query - whole.sum(1, keepdims=True)
        rank = (whole - exact).argsort(axis=1, kind="stable").argsort(axis=1)
        counts: np.ndarray = (whole + (rank < missing)).astype(np.int64)
        return counts

    def _check(
        self,
        supports: ItemsByClass,
        queries: ItemsByClass,
        drawn: np.ndarray,
        counts: np.ndarray,
        chosen: list[int],
        names: Sequence[str] | None,
    ) -> None:
        """Refuses classes that are too small for what was drawn; for balanced queries, whether or not they were."""
        wanted = np.full(len(chosen), self.n_query if self.dirichlet is None else 0)
        np.maximum.at(wanted, drawn.reshape(-1), counts.reshape(-1))
        shared = supports is queries
        left = queries.size - (self.k_shot if shared else supports.shared_with(queries).clip(max=self.k_shot))
        short = np.flatnonzero((supports.size < self.k_shot) | (left < wanted))
        if not len(short):
            return
        listed = []
        for row in short.tolist():
            name = repr(names[chosen[row]]) if names is not None else str(chosen[row])
            has = f"{name} has {supports.size[row]}"
            if not shared:
                has += f" for supports, {queries.size[row]} for queries"
            listed.append(f"{has}, needs {self.k_shot} + {wanted[row]}")
        queries_are = f"n_query={self.n_query}" + ("" if self.dirichlet is None else ", shared out unevenly")
        raise EpisodeError(
            f"k_shot={self.k_shot} and {queries_are}: a class needs as many different examples for supports and "
            f"queries; {'; '.join(listed)}. Lower k_shot or n_query, or leave these classes out."
        )


class _Taker:
    """Hands out the columns of the random numbers, left to right."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers, self.taken = numbers, 0

    def __call__(self, ways: int, each: int | None = None) -> np.ndarray:
        """``(E, ways)``, or ``(E · ways, each)``."""
        width = ways * (1 if each is None else each)
        taken = self.numbers[:, self.taken : self.taken + width]
        self.taken += width
        return taken if each is None else taken.reshape(-1, each)
