"""What a few labels would have given on the same test: the next rows of a zero-shot recipe's table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hf_fsl.backbones import Backbone
from hf_fsl.data import Splits
from hf_fsl.heads import choose_head
from hf_fsl.metrics import seeds_interval
from hf_fsl.records import MethodRecord
from hf_fsl.zero_shot.bi_encoder import label_prior
from hf_fsl.zero_shot.evaluation import LabelledInputs, of_classes
from hf_fsl.zero_shot.templates import ZeroShotError

DRAWS = 20
"""Support sets drawn for each k."""


def k_shot_rows(
    backbone: Backbone,
    test: LabelledInputs,
    pool: LabelledInputs | None,
    shots: Sequence[int],
    templates: Sequence[str],
    descriptions: dict[str, str],
) -> list[MethodRecord]:
    """Accuracy on test with k labelled examples of every class, by the head that the supports choose.

    Args:
        backbone: encodes inputs and labels.
        pool: where supports are drawn from, of the test's classes; None: from the test itself, whose other examples
            are then the queries.

    Returns:
        A row a k: mean over draws with Student's t interval.

    Raises:
        ZeroShotError: a class with too few examples for k.
    """
    own = pool is None
    given = test if pool is None else pool
    queries = backbone.encode(test.inputs, progress=True)
    supports = queries if own else backbone.encode(given.inputs, progress=True)
    words = {name: text for name, text in descriptions.items() if name in test.names}
    prior = label_prior(backbone, test.names, templates, words)
    labels = torch.as_tensor(test.labels)
    rows = []
    for k in shots:
        needed = k + 1 if own else k
        counts = np.bincount(given.labels, minlength=len(test.names))
        short = [f"{name!r} has {count}" for name, count in zip(test.names, counts, strict=True) if count < needed]
        if short:
            raise ZeroShotError(f"zero_shot.shots: {k} needs {needed} examples of every class; {', '.join(short)}.")
        accuracies = []
        for seed in range(DRAWS):
            order = np.random.default_rng([seed, k]).permutation(len(given.labels))
            chosen = np.concatenate([order[given.labels[order] == number][:k] for number in range(len(test.names))])
            choice = choose_head(supports[chosen], torch.as_tensor(given.labels[chosen]), prior=prior)
            asked = np.setdiff1d(np.arange(len(labels)), chosen) if own else np.arange(len(labels))
            right = choice.head(queries[asked]).argmax(-1) == labels[asked]
            accuracies.append(float(right.float().mean()))
        measured = seeds_interval(accuracies)
        measured.n, measured.over = len(labels), f"{DRAWS} draws of the support set (Student's t)"
        rows.append(MethodRecord(name=f"{k} labelled of each class", settings={}, validation=None, test=measured))
    return rows


def supports_of(splits: Splits, test: LabelledInputs) -> LabelledInputs | None:
    """The training examples of the test's classes; None where training has none of one of them."""
    try:
        found = of_classes(splits.train, splits.task, test.names)
    except ZeroShotError:
        return None
    return found if set(found.labels.tolist()) == set(range(len(test.names))) else None
