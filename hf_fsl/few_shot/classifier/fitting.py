"""From a support set to a head, on the backbone as it is or adapted, judged by what was held out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import peft
import torch
from torch import Tensor

from hf_fsl.config.adaptation import AdaptationConfig
from hf_fsl.config.sections import AdapterConfig
from hf_fsl.few_shot.adaptation.adapt import Adapted, adapt
from hf_fsl.few_shot.classifier.examples import LabeledExamples, folds_of
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.few_shot.heads.auto import head_by_name
from hf_fsl.few_shot.heads.estimator import HeadChoice
from hf_fsl.few_shot.heads.estimators import ESTIMATORS, fit_head
from hf_fsl.few_shot.heads.support import Moments
from hf_fsl.few_shot.heads.temperature import fit_temperature
from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.backbones.cache import EmbeddingCache
from hf_fsl.models.export.stock import stock_pooling
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import FeatureTransform, LinearHead

STOCK = "stock"
"""As a pooling: whatever the stock class of the backbone's family classifies."""


def load_backbone(name: str, *, pooling: str | None = None, **options: Any) -> Backbone:
    """A backbone by its name; asked for again, the one that is loaded already. Nobody changes it.

    Args:
        pooling: as of ``Backbone.from_pretrained``, or ``stock``, so that heads on it fold into the stock class.
        options: revision, device, max_length, prompt, prompt_name, trust_remote_code, see there.

    Raises:
        BackboneError: it cannot be loaded.
        FewShotError: ``stock``, and no stock class of its family is known.
    """
    return _load(name, pooling, tuple(sorted(options.items())))


@functools.lru_cache(maxsize=2)
def _load(name: str, pooling: Any, options: tuple[tuple[str, Any], ...]) -> Backbone:
    backbone = Backbone.from_pretrained(name, pooling=None if pooling == STOCK else pooling, **dict(options))
    if pooling != STOCK:
        return backbone
    known = stock_pooling(backbone.model)
    if known is None:
        raise FewShotError(
            f"pooling='stock': no stock class with a linear head is known for {name}, a "
            f"{type(backbone.model).__name__}. Leave pooling out; the model is then published as a class of hf_fsl."
        )
    return Backbone.from_pretrained(name, pooling=known, **dict(options))


Adapter = AdapterConfig | peft.PeftConfig
ADAPTED_SETTINGS: dict[str, Any] = {"penalty": 1.0, "strength": 1.0}
"""Of the estimator "anchored" on an adapted backbone, with the factor on its logits where nothing is held out:
leave-one-out would choose by examples that the backbone has seen. Settled on the validation split of supersense."""
ADAPTED_SCALE = 8.0
ENOUGH = 0.9
"""Share of the frozen backbone's held-out loss that an adapted one must not exceed to be kept; see ``fit_better``."""


@dataclass(frozen=True)
class HeadKind:
    """Which head is asked for: a name of ``hf_fsl.few_shot.heads.ESTIMATORS``, or ``auto``.

    ``foldable``: without L2-normalisation where the estimator does not demand it, so that it folds into a stock class.
    """

    estimator: str = "auto"
    foldable: bool = False


@dataclass(frozen=True)
class Adapting:
    """How a backbone is adapted to a support set, and judged.

    ``folds``: further trainings on parts of the support set (cross-fitting), from which held-out logits come, for the
    adapted backbone has seen every example. 0: none, and the temperature is that of examples already seen.
    """

    adapter: Adapter
    config: AdaptationConfig
    folds: int
    seed: int
    progress: bool


@dataclass(frozen=True)
class HeldOut:
    """Support examples as fits saw them that had not seen them."""

    nearest: Tensor
    """``(m,)``: distance to the nearest class mean of that fit in its transform, as ``spread`` of the means, and as it
    would be if the mean were of all supports of the class."""
    scale: float
    """Factor on the logits that calibrates them,"""
    loss: float
    """and the mean negative log likelihood under it."""


@dataclass(frozen=True)
class Fitted:
    """A head, the backbone it reads, and how it came about."""

    backbone: Backbone
    embeddings: Tensor
    """``(n, D)`` of the support."""
    label_embeddings: Tensor | None
    choice: HeadChoice
    scale: float = 1.0
    """On the logits of the chosen head: 1, unless held-out examples of an adapted backbone ask for another."""
    held_out: HeldOut | None = None
    """Of an adapted backbone."""
    adapted: Adapted | None = None
    reason: str = ""

    @property
    def head(self) -> LinearHead | CacheHead:
        return self.choice.head if self.scale == 1 else self.choice.head.scaled(self.scale)


def fit_frozen(
    support: LabeledExamples, backbone: Backbone, kind: HeadKind, cache: EmbeddingCache | None = None
) -> Fitted:
    """A head on the backbone as it is.

    Raises:
        HeadError: a support set that the estimator cannot use.
    """
    label_embeddings = support.label_embeddings(backbone)
    embeddings = backbone.encode(support.items, cache=cache, open_files=False)
    if not support.items and label_embeddings is not None:
        embeddings = label_embeddings[:0]
    base_mean = None
    if support.unlabeled and support.items and kind.estimator in ESTIMATORS and ESTIMATORS[kind.estimator].centre:
        base_mean = backbone.encode(support.unlabeled, cache=cache, open_files=False).mean(0)
    # Without examples there is nothing to fit but the label texts.
    choice = head_by_name(
        kind.estimator if support.items else "auto", embeddings, support.labels, normalize=not kind.foldable,
        num_classes=support.num_classes, label_embeddings=label_embeddings, base_mean=base_mean,
        weights=support.weights,
    )  # fmt: skip
    if not support.items and kind.estimator != "auto":
        choice = replace(choice, reason=f"{choice.reason} {kind.estimator}, which was asked for, needs some.")
    return Fitted(backbone, embeddings, label_embeddings, choice, reason=choice.reason.removesuffix("."))


def fit_adapted(support: LabeledExamples, backbone: Backbone, kind: HeadKind, how: Adapting) -> Fitted:
    """The backbone adapted to the support set, then a head on it.

    Raises:
        FewShotError: there are no examples.
    """
    if not support.items:
        raise FewShotError("adapter: without examples there is nothing to adapt the backbone to. Leave it out.")
    return _adapted(support, backbone, kind, how, _held_out_adapted(support, backbone, kind, how))


def _adapted(
    support: LabeledExamples, backbone: Backbone, kind: HeadKind, how: Adapting, held_out: HeldOut | None = None
) -> Fitted:
    # As examples, names cost accuracy where each class has two real ones; else they are all there is to pull at.
    texts = support.texts()[: support.num_classes] if support.of_texts and int(support.counts.max()) < 2 else []
    adapted = adapt(
        backbone, support.items, support.labels, how.config, adapter=how.adapter, seed=how.seed,
        progress=how.progress, label_texts=texts or None,
    )  # fmt: skip
    if kind.estimator != "auto" or kind.foldable:
        fitted = replace(fit_frozen(support, adapted.backbone, kind), adapted=adapted)
    else:
        fitted = _on_adapted(support, adapted)
    return fitted if held_out is None else replace(fitted, held_out=held_out, scale=held_out.scale)


def _held_out_adapted(support: LabeledExamples, backbone: Backbone, kind: HeadKind, how: Adapting) -> HeldOut | None:
    if how.folds and not (support.of_texts and support.label_texts is not None):
        counts = support.distinct
        left = counts - (counts + how.folds - 1) // how.folds
        if int(left.max()) < 2:
            return None  # no two examples of a class would be left to pull together
    return cross_fit(support, lambda part: _adapted(part, backbone, kind, how), how.folds, how.seed)


def _on_adapted(support: LabeledExamples, adapted: Adapted) -> Fitted:
    backbone = adapted.backbone
    embeddings, label_embeddings = backbone.encode(support.items, open_files=False), support.label_embeddings(backbone)
    head = fit_head(
        "anchored", embeddings, support.labels, num_classes=support.num_classes, label_embeddings=label_embeddings,
        weights=support.weights, **ADAPTED_SETTINGS,
    )  # fmt: skip
    around = "around the label names" if label_embeddings is not None else "on the labels"
    reason = f"Kernel ridge {around} with its defaults, since the adapted backbone has seen every example"
    choice = HeadChoice(head.scaled(ADAPTED_SCALE), "anchored", dict(ADAPTED_SETTINGS), 1 / ADAPTED_SCALE, reason)
    return Fitted(backbone, embeddings, label_embeddings, choice, adapted=adapted, reason=reason)


def fit_better(
    support: LabeledExamples, backbone: Backbone, kind: HeadKind, how: Adapting, cache: EmbeddingCache | None = None
) -> Fitted:
    """The backbone adapted where that takes a tenth off the log-loss on examples held out from both in the same way.

    Both are judged by fits to half of few examples, and smaller gains were measured not to come out on new ones
    (``benchmarks/adapter_auto.py``). Where fewer than two classes have two different examples nothing can be held out,
    nor where a fold leaves no two of a class to pull together (texts have label texts to pull at). The
    backbone then stays as it is.
    """
    frozen = fit_frozen(support, backbone, kind, cache)
    plain = cross_fit(support, lambda part: fit_frozen(part, backbone, kind, cache), how.folds, how.seed)
    held_out = None if plain is None else _held_out_adapted(support, backbone, kind, how)
    if plain is None or held_out is None:
        why = "the backbone stays as it is: nothing can be held out to judge an adapter by"
        return replace(frozen, reason=f"{frozen.reason}; {why}")
    losses = f"held-out loss {held_out.loss:.3f} adapted, {plain.loss:.3f} as it was"
    if held_out.loss > ENOUGH * plain.loss:
        return replace(frozen, reason=f"{frozen.reason}; the backbone stays as it is ({losses}; it takes a tenth)")
    adapted = _adapted(support, backbone, kind, how, held_out)
    return replace(adapted, reason=f"{adapted.reason}; the backbone is adapted ({losses})")


def cross_fit(
    support: LabeledExamples, fit: Callable[[LabeledExamples], Fitted], folds: int, seed: int
) -> HeldOut | None:
    """Each example as a fit without it sees it; None where too few classes have two different examples."""
    parts = folds_of(support, folds, seed) if folds else []
    if len(parts) < 2 or int((support.distinct >= 2).sum()) < 2:
        return None
    rows: list[int] = []
    logits, nearest = [], []
    for part in parts:
        aside = set(part)
        rest = support.part([row for row in range(len(support.items)) if row not in aside])
        fitted = fit(rest)
        queries = fitted.backbone.encode([support.items[row] for row in part], open_files=False)
        rows += part
        logits.append(fitted.head(queries))
        transform = fitted.head.transform
        means = transformed_means(transform, fitted.embeddings, rest.labels, rest.weights)
        counts, fewer = (of.counts[support.labels[part]].double() for of in (support, rest))
        closer = ((1 + 1 / counts) / (1 + 1 / fewer)).sqrt()
        nearest.append(closer * torch.cdist(transform(queries), means).amin(-1) / spread(means))
    labels, stacked = support.labels[rows], torch.cat(logits)
    scale = 1 / fit_temperature(stacked, labels)
    loss = torch.nn.functional.cross_entropy(scale * stacked.double(), labels)
    return HeldOut(torch.cat(nearest), float(scale), float(loss))


def transformed_means(
    transform: FeatureTransform, embeddings: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Class means ``(C, D')`` of transformed embeddings, of the classes that occur; weights are ``(n,)``."""
    features = transform(embeddings)
    moments = Moments.of(features, labels.unique(return_inverse=True)[1], len(labels.unique()), weights)
    return moments.means().to(features.dtype)


def spread(means: Tensor) -> Tensor:
    """The mean distance between class means ``(C, D')``.

    Thresholds in this unit hold from one adapted backbone to the next, where plain distances do not: the more examples
    of a class there are to train on, the less apart are the classes that a backbone makes of them.
    """
    return torch.pdist(means).mean()
