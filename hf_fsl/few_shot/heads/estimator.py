"""What an estimator is, and what came of choosing among its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hf_fsl.few_shot.heads.support import SupportSet
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import LinearHead

Linear = tuple[Tensor, Tensor]
"""W ``(..., C, D)`` and b ``(..., C)``."""


@dataclass(frozen=True)
class Estimator:
    """A way to make a head from a support set.

    A new one is a file beside this that makes an ``Estimator``, and its line in ``estimators.py``. The keyword-only
    arguments of ``fit`` are its hyperparameters; ``leave_one_out`` and ``from_moments`` take the same.
    """

    name: str
    fit: Callable[..., Linear | CacheHead]
    """``fit(support, **hyperparameters)``."""
    leave_one_out: Callable[..., Tensor] | None = None
    """``leave_one_out(support, **hyperparameters)`` -> logits ``(..., n, C)``, each of a support by a head without it,
    NaN where it is the only one of its class. None: there is no closed form, and folds are held out."""
    from_moments: Callable[..., Linear] | None = None
    """``from_moments(moments, label_embeddings, **hyperparameters)``, the same head from sufficient statistics. None:
    it grows from the support embeddings only."""
    grid: tuple[dict[str, Any], ...] = ({},)
    """Hyperparameters that ``choose_head`` chooses among where it is asked for this estimator."""
    centre: bool = False
    normalize: bool = False
    """The transform of embeddings, unless another is asked for."""
    transform_is_fixed: bool = False
    """Whether the method is defined by its transform, so that no other may be asked for."""
    uses_label_embeddings: bool = False
    """Whether it can do without examples of a class whose label embedding it is given."""
    compares_means: bool = False
    """Whether how many examples a class has says nothing of how likely it is, as class means are compared."""

    def hyperparameters(self) -> dict[str, Any]:
        """Names and defaults."""
        parameters = inspect.signature(self.fit).parameters.values()
        return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}

    def head_of(self, support: SupportSet, hyperparameters: dict[str, Any]) -> LinearHead | CacheHead:
        """The head of a support set in its transform."""
        fitted = self.fit(support, **hyperparameters)
        if isinstance(fitted, CacheHead):
            return fitted
        dtype = support.features.dtype
        return LinearHead(fitted[0].to(dtype), fitted[1].to(dtype), support.transform)


@dataclass(frozen=True)
class HeadTrial:
    """A setting that was tried."""

    estimator: str
    hyperparameters: dict[str, Any]
    loss: float
    """Mean held-out negative log likelihood at the setting's own best temperature."""
    accuracy: float
    """Of the held-out predictions."""
    weight: float = 0.0
    """Its part of what was chosen."""


@dataclass(frozen=True)
class HeadChoice:
    """What was chosen, and why."""

    head: LinearHead | CacheHead
    estimator: str
    hyperparameters: dict[str, Any]
    """``fit_head(estimator, …, **hyperparameters).scaled(1 / temperature)`` is the head."""
    temperature: float
    """Already in the head."""
    reason: str
    table: tuple[HeadTrial, ...] = field(repr=False, default=())
    held_out_logits: Tensor | None = field(repr=False, default=None)
    """``(n, C)``, temperature applied: of each support from a head fitted without it. NaN for the only support of its
    class, and for what was not held out of many (see ``HELD_OUT_CELLS``). None where no class has two."""
