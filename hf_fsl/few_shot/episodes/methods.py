"""What is evaluated on episodes: a head fitted to each support set, perhaps refined, or nearest means by the pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_fsl.few_shot.episodes.items import EpisodeError
from hf_fsl.few_shot.episodes.pooled import PooledMeans
from hf_fsl.few_shot.episodes.sampler import Episodes
from hf_fsl.few_shot.heads.auto import choose_head
from hf_fsl.few_shot.heads.estimators import ESTIMATORS, fit_head
from hf_fsl.models.published.linear_head import LinearHead

Head = Callable[[Tensor], Tensor]
"""Queries ``(E, Q, D)`` -> logits ``(E, Q, C)`` of E episodes: a ``LinearHead`` or ``CacheHead``, for one."""
Fit = Callable[[Tensor, Tensor, Tensor | None], Head]
"""(supports ``(E, n, D)``, labels ``(E, n)``, label embeddings ``(E, C, D)`` or None) -> head."""
Refine = Callable[[Any, Tensor, Tensor, Tensor], Head]
"""(head, supports ``(E, n, D)``, labels ``(E, n)``, queries ``(E, Q, D)``) -> head; transductive."""


@dataclass(frozen=True)
class Scorer:
    """A method over one pool of embeddings."""

    score: Callable[[Episodes, Tensor | None], Tensor]
    """(some episodes, their label embeddings ``(E, C, D)`` or None) -> query logits ``(E, Q, C)``."""
    episode_bytes: int
    """What it needs for each episode, about."""


@dataclass(frozen=True)
class Method:
    """A head fitted on the supports and, where ``refine`` is given, sharpened with the unlabeled queries."""

    fit: Fit
    refine: Refine | None = None

    def scorer(self, embeddings: Tensor, episodes: Episodes) -> Scorer:
        def score(some: Episodes, label_embeddings: Tensor | None) -> Tensor:
            support, labels = embeddings[some.support.flatten(1)], some.support_labels.to(embeddings.device)
            head = self.fit(support, labels, label_embeddings)
            queries = embeddings[some.query]
            if self.refine is not None:
                head = self.refine(head, support, labels, queries)
            return head(queries)

        rows = episodes.n_way * (episodes.k_shot + 1) + episodes.query.shape[1]
        return Scorer(score, 3 * rows * (embeddings.shape[1] + episodes.n_way) * embeddings.element_size())


@dataclass(frozen=True)
class NearestMean:
    """``scale · (2 μ_c·z − ‖μ_c‖²)``: by products over the whole pool where that is less work than episode by episode.

    Every episode's scores are sums of inner products of pool members, so that one product of the pool with itself
    serves them all, and no embedding is gathered.
    """

    scale: float = 1.0

    def scorer(self, embeddings: Tensor, episodes: Episodes) -> Scorer:
        if PooledMeans.cheaper(embeddings, episodes):
            means = PooledMeans(embeddings, episodes)
            numbers = episodes.n_way * episodes.query.shape[1]
            return Scorer(lambda some, label_embeddings: means.scores(some).mul_(self.scale), 32 * numbers)
        return Method(self._fit).scorer(embeddings, episodes)

    def _fit(self, support: Tensor, labels: Tensor, label_embeddings: Tensor | None) -> LinearHead:
        ways = int(labels.max()) + 1
        means = support.unflatten(1, (ways, -1)).mean(2)
        return LinearHead(2 * self.scale * means, -self.scale * means.square().sum(-1))


def as_method(given: str | Fit | Method | NearestMean, base_mean: Tensor | None) -> Method | NearestMean:
    """A method by the name of a head, or as it was given.

    Raises:
        EpisodeError: neither.
    """
    if isinstance(given, (Method, NearestMean)):
        return given
    if callable(given):
        return Method(given)
    if given == "nearest_mean":
        return NearestMean(**ESTIMATORS[given].hyperparameters())
    if given not in ("auto", *ESTIMATORS):
        raise EpisodeError(f"A method is a callable, auto or one of {', '.join(ESTIMATORS)}; got {given!r}.")
    name = given

    def fit(support: Tensor, labels: Tensor, label_embeddings: Tensor | None) -> Head:
        ways = int(labels.max()) + 1
        if name == "auto":
            of_episodes = [None] * len(support) if label_embeddings is None else label_embeddings
            heads = [
                choose_head(*episode, label_embeddings=names, num_classes=ways, base_mean=base_mean).head
                for *episode, names in zip(support, labels, of_episodes, strict=True)
            ]
            return lambda queries: torch.stack([head(own) for head, own in zip(heads, queries, strict=True)])
        names = label_embeddings if ESTIMATORS[name].uses_label_embeddings else None
        return fit_head(name, support, labels, num_classes=ways, label_embeddings=names, base_mean=base_mean)

    return Method(fit)


def finite(embeddings: Tensor) -> Tensor:
    """The embeddings, floating and finite.

    Raises:
        EpisodeError: NaN or infinite values.
    """
    broken = (~embeddings.isfinite().all(-1)).nonzero().flatten()
    if len(broken):
        raise EpisodeError(
            f"Embeddings are finite; {len(broken)} of {len(embeddings)} are not, the first is row {int(broken[0])}. "
            "Look for an empty input, or for float16 where the model needs float32."
        )
    return embeddings if embeddings.dtype in (torch.float32, torch.float64) else embeddings.float()
