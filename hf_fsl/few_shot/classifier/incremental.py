"""From a fit to the state of a classifier, and from there on to more examples and more classes, without a fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_fsl.few_shot.classifier.examples import LabeledExamples, read_labels, texts_for
from hf_fsl.few_shot.classifier.fitting import Fitted, spread, transformed_means
from hf_fsl.few_shot.classifier.state import FewShotState
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.few_shot.heads.estimators import GROWING
from hf_fsl.few_shot.heads.incremental import GrowingHead
from hf_fsl.few_shot.heads.refusal import Refusal, fit_refusal, way_to_coverage
from hf_fsl.few_shot.heads.support import TooFewSupports
from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.label_texts import label_text_embeddings


def state_of(fitted: Fitted, support: LabeledExamples, coverage: float, keep_support: bool) -> FewShotState:
    """The state of a classifier that was just fitted."""
    choice = fitted.choice
    growing, head = None, fitted.head
    if choice.estimator in GROWING or keep_support:
        growing = GrowingHead.of_choice(
            choice, fitted.embeddings, support.labels, label_embeddings=fitted.label_embeddings,
            weights=support.weights, keep_embeddings=keep_support,
        )  # fmt: skip
        growing = replace(growing, temperature=choice.temperature / fitted.scale)
        head = growing.head()
    refusal, why = _refusal(fitted, support, coverage)
    image = not support.of_texts or (not support.items and fitted.backbone.tokenizer is None)
    return FewShotState(
        classes=support.classes,
        counts=tuple(support.counts.tolist()),
        modality="image" if image else "text",
        head=head,
        growing=growing,
        estimator=choice.estimator,
        hyperparameters=choice.hyperparameters,
        reason=fitted.reason,
        label_texts=support.label_texts if fitted.label_embeddings is not None else None,
        templates=support.templates,
        temperature=choice.temperature / fitted.scale,
        coverage=coverage,
        refusal=refusal,
        no_refusal=why,
        class_weights=support.class_weights,
    )


def grown(
    state: FewShotState,
    backbone: Backbone,
    X: Iterable[Any],
    y: Iterable[Any],
    *,
    new: bool,
    label_texts: Mapping[Any, str] | None = None,
) -> FewShotState:
    """With more examples of the classes there are, or (``new``) with classes that follow them.

    Raises:
        FewShotError: labels of another kind, a head that cannot grow, label texts that are missing or cannot be
            encoded.
    """
    if state.growing is None:
        raise FewShotError(
            f"{state.estimator} grows from the support embeddings only, and they were not kept. Fit with "
            "keep_support=True."
        )
    items, given = list(X), read_labels(y)
    if not items or len(items) != len(given):
        raise FewShotError(f"Every new example has one label: got {len(items)} examples and {len(given)} labels.")
    known = {name: row for row, name in enumerate(state.classes.tolist())}
    wrong = sorted({str(name) for name in given if (name in known) == new})
    if wrong and new:
        raise FewShotError(f"{', '.join(wrong)}: classes that are there already. Use add_examples for them.")
    if wrong:
        raise FewShotError(f"{', '.join(wrong)}: no classes of this model. Use add_classes for them.")
    added = np.unique(np.asarray(given)) if new else state.classes[:0]
    if new and (added.dtype.kind in "US") != (state.classes.dtype.kind in "US"):
        raise FewShotError(
            f"Labels are all texts or all numbers; the model has {state.classes.tolist()[0]!r}, got {given[0]!r}."
        )
    known |= {name: len(state.classes) + row for row, name in enumerate(added.tolist())}
    labels = torch.tensor([known[name] for name in given])
    embeddings = backbone.encode(items, open_files=False)
    by_class = None if state.class_weights is None else (*state.class_weights, *[1.0] * len(added))
    weights = None if by_class is None else torch.tensor(by_class, dtype=torch.float64)[labels]
    texts = state.label_texts
    if new:
        label_embeddings = None
        if texts is not None:
            texts = (*texts, *texts_for(added, label_texts))
            label_embeddings = _new_label_embeddings(backbone, texts[len(state.classes) :], state.templates)
        growing = state.growing.add_classes(embeddings, labels, label_embeddings=label_embeddings, weights=weights)
    else:
        growing = state.growing.add_examples(embeddings, labels, weights=weights)
    counts = np.bincount(labels.numpy(), minlength=len(known))
    counts[: len(state.counts)] += state.counts
    return replace(
        state,
        modality="text" if isinstance(items[0], str) else "image",
        classes=np.concatenate([state.classes, added]),
        counts=tuple(counts.tolist()),
        head=growing.head(),
        growing=growing,
        label_texts=texts,
        class_weights=by_class,
        refusal=None if state.refusal is None else replace(state.refusal, means=_means(growing).to(torch.float32)),
    )


def _new_label_embeddings(backbone: Backbone, texts: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
    if backbone.tokenizer is None:
        raise FewShotError(
            "This model was fitted with label texts, and was published without the encoder that read them. "
            "Fit anew on the whole backbone, or with use_label_texts=False."
        )
    return label_text_embeddings(backbone, texts, templates)


def _refusal(fitted: Fitted, support: LabeledExamples, coverage: float) -> tuple[Refusal | None, str]:
    """The refusal, or why there is none. Of an adapted backbone the threshold comes from what it had not seen."""
    if not support.items:
        return None, "There are no examples to tell one by."
    transform = fitted.head.transform
    if fitted.adapted is None:
        try:
            return fit_refusal(
                fitted.embeddings, support.labels, coverage=coverage, transform=transform,
                num_classes=support.num_classes, weights=support.weights,
            ), ""  # fmt: skip
        except TooFewSupports as error:
            return None, str(error)
    if fitted.held_out is None:
        return (
            None,
            "An adapted backbone has seen its support examples, and none were held out. Fit with folds above 0.",
        )
    count = len(fitted.held_out.nearest)
    place = coverage * (count + 1) / count
    if place > 1:
        return None, (
            f"coverage={coverage:g} cannot be told from {count} held-out examples. {way_to_coverage(coverage, count)}"
        )
    means = transformed_means(transform, fitted.embeddings, support.labels, support.weights)
    threshold = fitted.held_out.nearest.double().quantile(place) * spread(means)
    return Refusal(means, float(threshold), coverage, transform), ""


def _means(growing: GrowingHead) -> Tensor:
    if growing.moments is not None:
        # A class of which there is only a label text has no mean to be near to.
        return growing.moments.means()[growing.moments.counts > 0]
    assert growing.embeddings is not None and growing.labels is not None
    return transformed_means(growing.transform, growing.embeddings, growing.labels, growing.weights)
