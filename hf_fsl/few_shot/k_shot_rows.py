"""What a few labels would have given on the same test: the next rows of a zero-shot recipe's table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hf_fsl.core.records import MethodRecord
from hf_fsl.data.loading import Splits
from hf_fsl.few_shot.heads.auto import choose_head
from hf_fsl.few_shot.heads.estimators import fit_head
from hf_fsl.metrics.intervals import seeds_interval
from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.label_texts import complete_label_texts, label_text_embeddings
from hf_fsl.models.templates import ZeroShotError
from hf_fsl.zero_shot.evaluation import LabeledInputs, of_classes

DRAWS = 20
"""Support sets drawn for each k."""


def k_shot_rows(
    backbone: Backbone,
    test: LabeledInputs,
    pool: LabeledInputs | None,
    shots: Sequence[int],
    templates: Sequence[str],
    label_texts: dict[str, str],
) -> list[MethodRecord]:
    """Accuracy on test with k labeled examples of every class, by the head that the supports choose.

    Of image-text models also by the methods that are usual for them, on the same supports: see ``usual_heads``.

    Args:
        backbone: encodes inputs and labels.
        pool: where supports are drawn from, of the test's classes; None: from the test itself, whose other examples
            are then the queries.

    Returns:
        A row a k and method: mean over draws with Student's t interval.

    Raises:
        ZeroShotError: a class with too few examples for k.
    """
    own, given = require_shots(test, pool, shots)
    queries = backbone.encode(test.inputs, progress=True, open_files=False)
    supports = queries if own else backbone.encode(given.inputs, progress=True, open_files=False)
    texts = complete_label_texts(test.names, label_texts)
    label_embeddings = label_text_embeddings(backbone, test.names, templates, texts)
    labels = torch.as_tensor(test.labels)
    rows = []
    for k in shots:
        accuracies: dict[str, list[float]] = {}
        for seed in range(DRAWS):
            order = np.random.default_rng([seed, k]).permutation(len(given.labels))
            chosen = np.concatenate([order[given.labels[order] == number][:k] for number in range(len(test.names))])
            of_support = supports[chosen], torch.as_tensor(given.labels[chosen])
            asked = np.setdiff1d(np.arange(len(labels)), chosen) if own else np.arange(len(labels))
            chosen_head = choose_head(*of_support, label_embeddings=label_embeddings).head
            heads: dict[str, Callable[[Tensor], Tensor]] = {"": chosen_head}
            if backbone.image_processor is not None and backbone.tokenizer is not None:
                heads |= usual_heads(*of_support, label_embeddings)
            for name, head in heads.items():
                right = head(queries[asked]).argmax(-1) == labels[asked]
                accuracies.setdefault(name, []).append(float(right.float().mean()))
        for name, found in accuracies.items():
            measured = seeds_interval(found)
            measured.n, measured.over = len(labels), f"{DRAWS} draws of the support set (Student's t)"
            title = f"{k} labelled of each class" + (f", {name}" if name else "")
            rows.append(MethodRecord(name=title, settings={}, validation=None, test=measured))
    return rows


def require_shots(test: LabeledInputs, pool: LabeledInputs | None, shots: Sequence[int]) -> tuple[bool, LabeledInputs]:
    """Whether supports come from the test itself, and where they come from.

    Raises:
        ZeroShotError: classes with too few examples for the largest k, by name.
    """
    own, given = pool is None, test if pool is None else pool
    most = max(shots, default=0)
    needed = most + 1 if own else most
    counts = np.bincount(given.labels, minlength=len(test.names))
    short = [f"{name!r} has {count}" for name, count in zip(test.names, counts, strict=True) if count < needed]
    if shots and short:
        raise ZeroShotError(
            f"zero_shot.shots: {most} needs {needed} examples of every class; {', '.join(short)}. Lower it."
        )
    return own, given


def usual_heads(support: Tensor, labels: Tensor, label_embeddings: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """What few-shot CLIP is usually done by: name -> (queries ``(Q, D)`` -> logits ``(Q, C)``).

    Tip-Adapter's cache and kernel ridge around the names, by leave-one-out where every class has two examples and
    else at their defaults; and LDA + zero-shot (Wang et al. 2024, arXiv:2402.04087), the sum of both classifiers'
    calibrated logits, from two examples on: one has no covariance.
    """
    held_out = int(labels.bincount().min()) >= 2
    heads: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, estimator in (("Tip-Adapter", "cache"), ("kernel ridge around the names", "anchored")):
        heads[name] = (
            choose_head(support, labels, label_embeddings=label_embeddings, candidates=[estimator]).head
            if held_out
            else fit_head(estimator, support, labels, label_embeddings=label_embeddings)
        )
    if held_out:
        lda = choose_head(support, labels, candidates=["lda"]).head
        zero_shot = choose_head(support[:0], labels[:0], label_embeddings=label_embeddings).head
        heads["LDA + zero-shot"] = lambda queries: lda(queries) + zero_shot(queries)
    return heads


def supports_of(splits: Splits, test: LabeledInputs) -> LabeledInputs | None:
    """The training examples of the test's classes; None where training has none of one of them."""
    try:
        found = of_classes(splits.train, splits.task, test.names)
    except ZeroShotError:
        return None
    return found if set(found.labels.tolist()) == set(range(len(test.names))) else None
