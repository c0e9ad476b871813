"""Heads that take new examples and new classes: the same as a refit, with transform and hyperparameters held."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hf_fsl.core.renamed import RENAMED_ESTIMATORS
from hf_fsl.few_shot.heads.estimator import HeadChoice
from hf_fsl.few_shot.heads.estimators import ESTIMATORS, GROWING, find_estimator
from hf_fsl.few_shot.heads.support import HeadError, Moments, SupportSet, centered_label_embeddings, read_support_set
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import FeatureTransform, LinearHead

_DTYPES = {
    str(kind).removeprefix("torch."): kind for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


@dataclass(frozen=True)
class GrowingHead:
    """What a head can grow from.

    Nearest means, LDA, ridge, "anchored" and "named_lda" keep sufficient statistics: class counts, sums and second
    moments, in float64. "logistic" and "cache" keep the support embeddings, which has to be asked for. Neither is
    anonymous: the sum of one example is the example.
    """

    estimator: str
    hyperparameters: dict[str, Any]
    """Held, as is all of what follows but the statistics."""
    temperature: float
    transform: FeatureTransform
    dtype: torch.dtype
    label_embeddings: Tensor | None
    """Label embeddings ``(C, D)``."""
    moments: Moments | None
    embeddings: Tensor | None = None
    """``(n, D)``, as given."""
    labels: Tensor | None = None
    """``(n,)``."""
    weights: Tensor | None = None
    """``(n,)``; None: each support counts as one."""

    @classmethod
    def of_choice(
        cls,
        choice: HeadChoice,
        support: Tensor,
        labels: Tensor,
        *,
        label_embeddings: Tensor | None = None,
        weights: Tensor | None = None,
        keep_embeddings: bool = False,
    ) -> GrowingHead:
        """Of what ``choose_head`` gave.

        Args:
            choice: what it gave.
            support: ``(n, D)``, what it was given, as all that follows.
            labels: ``(n,)``.
            label_embeddings: ``(C, D)``.
            weights: ``(n,)``.
            keep_embeddings: allows an estimator that grows from the support embeddings only.

        Returns:
            A head that can grow, and gives the same logits.

        Raises:
            HeadError: as ``of``.
        """
        return cls.of(
            choice.estimator,
            support,
            labels,
            transform=choice.head.transform,
            num_classes=choice.head.num_classes,
            label_embeddings=label_embeddings,
            weights=weights,
            hyperparameters=choice.hyperparameters,
            temperature=choice.temperature,
            keep_embeddings=keep_embeddings,
        )

    @classmethod
    def of(
        cls,
        estimator: str,
        support: Tensor,
        labels: Tensor,
        *,
        transform: FeatureTransform,
        num_classes: int | None = None,
        label_embeddings: Tensor | None = None,
        weights: Tensor | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        temperature: float = 1.0,
        keep_embeddings: bool = False,
    ) -> GrowingHead:
        """Of the supports that ``fit_head(estimator, …)`` was given.

        Args:
            estimator: its name.
            support: ``(n, D)``, without episodes.
            labels: ``(n,)``.
            transform: the fitted head's.
            num_classes: C; None: as many as there are label embeddings, or as the labels name.
            label_embeddings: ``(C, D)``.
            weights: ``(n,)``.
            hyperparameters: as there; ``centre`` and ``normalize`` are the transform's.
            temperature: what the head's logits are divided by.
            keep_embeddings: allows an estimator that grows from the support embeddings only.

        Returns:
            A head that can grow.

        Raises:
            HeadError: supports that cannot be used, or an estimator that has to keep them where that is not allowed.
        """
        settings = {key: value for key, value in (hyperparameters or {}).items() if key not in ("centre", "normalize")}
        find_estimator(estimator, settings)
        if estimator not in GROWING and not keep_embeddings:
            raise HeadError(
                f"{estimator} grows from the support embeddings only, which are not kept unless you say so: pass "
                f"keep_embeddings=True, or choose one of {', '.join(GROWING)}."
            )
        options: dict[str, Any] = {"num_classes": num_classes, "label_embeddings": label_embeddings}
        given = read_support_set(support, labels, weights=weights, **options)
        fixed = (estimator, settings, temperature, transform, given.features.dtype, label_embeddings)
        if estimator in GROWING:
            return cls(*fixed, Moments.of(transform(given.features), labels, given.num_classes, weights))
        return cls(*fixed, None, given.features, labels, weights)

    @property
    def num_classes(self) -> int:
        if self.moments is not None:
            return len(self.moments.counts)
        assert self.labels is not None
        return len(self.label_embeddings) if self.label_embeddings is not None else int(self.labels.max()) + 1

    def add_examples(self, support: Tensor, labels: Tensor, *, weights: Tensor | None = None) -> GrowingHead:
        """With more examples of the classes there are.

        Args:
            support: ``(n', D)``.
            labels: ``(n',)``.
            weights: ``(n',)``; None: each support counts as one.

        Returns:
            The grown head; this one stays.

        Raises:
            HeadError: supports that cannot be used, or a label of no class.
        """
        read = read_support_set(support, labels, num_classes=self.num_classes, weights=weights)
        return self._grown(read.features, labels, weights, self.num_classes, None)

    def add_classes(
        self, support: Tensor, labels: Tensor, *, label_embeddings: Tensor | None = None, weights: Tensor | None = None
    ) -> GrowingHead:
        """With new classes, whose indices follow those there are.

        Args:
            support: ``(n', D)``, of the new classes.
            labels: ``(n',)``, from C on.
            label_embeddings: ``(C', D)`` of the new classes, where the head uses such.
            weights: ``(n',)``; None: each support counts as one.

        Returns:
            The grown head; this one stays.

        Raises:
            HeadError: supports that cannot be used, labels that are not of new classes, a new class without an
                example, or names given to a head without, or missing.
        """
        classes = self.num_classes
        if (label_embeddings is None) != (self.label_embeddings is None):
            raise HeadError(
                "New classes come with label embeddings if the head uses them, and only then; this one "
                f"{'does not' if self.label_embeddings is None else 'does'}."
            )
        if labels.numel() and int(labels.min()) < classes:
            raise HeadError(
                f"New classes are counted from {classes}, got label {int(labels.min())}. More examples of a class "
                "that is there go to add_examples."
            )
        named = int(labels.max()) + 1 - classes if labels.numel() else 0
        new = named if label_embeddings is None else len(label_embeddings)
        if new == 0:
            raise HeadError("There is no new class: give examples with labels from the number of classes on.")
        read = read_support_set(support, labels, num_classes=classes + new, weights=weights)
        missing = (read.counts[classes:] == 0).nonzero().flatten().tolist()
        if missing and not (self.label_embeddings is not None and ESTIMATORS[self.estimator].uses_label_embeddings):
            raise HeadError(f"A new class needs an example; class {classes + missing[0]} has none.")
        return self._grown(read.features, labels, weights, classes + new, label_embeddings)

    def head(self) -> LinearHead | CacheHead:
        """The head, fitted anew and at the temperature that is held."""
        label_embeddings = centered_label_embeddings(self.label_embeddings, torch.float64)
        estimator = ESTIMATORS[self.estimator]
        if self.moments is not None:
            assert estimator.from_moments is not None
            weight, bias = estimator.from_moments(self.moments, label_embeddings, **self.hyperparameters)
            fitted: LinearHead | CacheHead = LinearHead(weight.to(self.dtype), bias.to(self.dtype), self.transform)
        else:
            assert self.embeddings is not None and self.labels is not None
            own = None if label_embeddings is None else label_embeddings.to(self.dtype)
            features = self.transform(self.embeddings)
            support = SupportSet.of(features, self.labels, self.num_classes, self.transform, own, self.weights)
            fitted = estimator.head_of(support, self.hyperparameters)
        return fitted.scaled(1 / self.temperature)

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and metadata, as ``safetensors.torch.save_file`` takes them."""
        tensors = {
            "centre": self.transform.centre,
            "projection": self.transform.projection,
            "prior": self.label_embeddings,
            "embeddings": self.embeddings,
            "labels": self.labels,
            "weights": self.weights,
        }
        if self.moments is not None:
            tensors |= {"counts": self.moments.counts, "sums": self.moments.sums, "second": self.moments.second}
        settings = {
            "estimator": self.estimator,
            "hyperparameters": self.hyperparameters,
            "temperature": self.temperature,
            "normalize": self.transform.normalize,
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        kept = {name: value.contiguous() for name, value in tensors.items() if value is not None}
        return kept, {"growing_head": json.dumps(settings)}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> GrowingHead:
        """What ``state`` gave.

        Args:
            tensors: its tensors.
            metadata: its metadata; estimators may have their old names.

        Returns:
            The head that it is the state of.

        Raises:
            HeadError: it is not such a state.
        """
        try:
            settings = json.loads(metadata["growing_head"])
            estimator = RENAMED_ESTIMATORS.get(settings["estimator"], settings["estimator"])
            find_estimator(estimator, settings["hyperparameters"])
            moments = None
            if "counts" in tensors:
                moments = Moments(tensors["counts"], tensors["sums"], tensors["second"])
            transform = FeatureTransform(tensors.get("centre"), tensors.get("projection"), settings["normalize"])
            return cls(
                estimator, settings["hyperparameters"], settings["temperature"], transform,
                _DTYPES[settings["dtype"]], tensors.get("prior"), moments, tensors.get("embeddings"),
                tensors.get("labels"), tensors.get("weights"),
            )  # fmt: skip
        except (KeyError, json.JSONDecodeError) as error:
            raise HeadError(f"This is not the state of a growing head: {error} is missing or broken.") from error

    def _grown(
        self,
        embeddings: Tensor,
        labels: Tensor,
        weights: Tensor | None,
        num_classes: int,
        label_embeddings: Tensor | None,
    ) -> GrowingHead:
        if self.label_embeddings is not None and label_embeddings is not None:
            label_embeddings = torch.cat([self.label_embeddings, label_embeddings.to(self.label_embeddings)])
        names = self.label_embeddings if label_embeddings is None else label_embeddings
        if self.moments is not None:
            more = Moments.of(self.transform(embeddings.to(self.dtype)), labels, num_classes, weights)
            return replace(self, label_embeddings=names, moments=self.moments.plus(more))
        assert self.embeddings is not None and self.labels is not None
        both = None
        if self.weights is not None or weights is not None:
            pairs = ((self.weights, self.labels), (weights, labels))
            both = torch.cat([torch.ones(len(of)) if one is None else one for one, of in pairs])
        return replace(
            self,
            weights=both,
            label_embeddings=names,
            embeddings=torch.cat([self.embeddings, embeddings.to(self.dtype)]),
            labels=torch.cat([self.labels, labels]),
        )
