"""What a dual encoder knows of classes and pictures it has never seen: zero-shot classification and retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from hf_fsl.contrastive.inputs import TextFeatures, encoded_pictures, image_outputs
from hf_fsl.contrastive.towers import DualEncoder, LoadedTowers
from hf_fsl.core.measurement import Measurement
from hf_fsl.core.records import ZeroShotMeasurement
from hf_fsl.data.encoding import EncodedSplit
from hf_fsl.data.pairs import PairSplit
from hf_fsl.metrics.intervals import bootstrap_interval, example_losses

RANKS = (1, 5)


@dataclass(frozen=True)
class Scores:
    """Logits of N pictures for the C classes and the M distinct retrieval texts of their split.

    ``labels`` and ``targets`` ``(N,)`` say which is right; without classes ``by_class`` is None.
    """

    by_class: np.ndarray | None
    labels: np.ndarray
    by_text: np.ndarray
    targets: np.ndarray


class ZeroShotSplit:
    """A split prepared once for being measured many times.

    Args:
        templates: what is said of a class, ``"a photo of {}"``; of several the mean of the embeddings is taken.
    """

    def __init__(self, split: PairSplit, towers: LoadedTowers, templates: Sequence[str]) -> None:
        self.split, self.templates = split, list(templates)
        self.pictures: EncodedSplit = encoded_pictures(split, towers)
        self.texts = sorted(set(split.retrieval))

    def scores(self, encoder: DualEncoder, texts: TextFeatures, accelerator: Accelerator, batch_size: int) -> Scores:
        """Every process must call it; all get the same."""
        images = image_outputs(encoder, self.pictures, accelerator, batch_size)
        scale = encoder.model.logit_scale.detach().exp().float().cpu()
        positions = {text: number for number, text in enumerate(self.texts)}
        by_text = scale * images @ texts.embeddings(self.texts).T
        by_class = None
        if self.split.labels is not None:
            each = [texts.embeddings([template.format(c) for c in self.split.classes]) for template in self.templates]
            mean = torch.nn.functional.normalize(torch.stack(each).mean(0), dim=-1)
            by_class = (scale * images @ mean.T).numpy()
        return Scores(
            by_class,
            np.array(self.split.labels if self.split.labels is not None else []),
            by_text.numpy(),
            np.array([positions[text] for text in self.split.retrieval]),
        )


def quick_metrics(scores: Scores) -> dict[str, float]:
    """What a checkpoint is chosen by: ``accuracy`` by class, ``retrieval_at_1`` and ``_5``, and ``loss`` by text."""
    values = (
        {} if scores.by_class is None else {"accuracy": float((scores.by_class.argmax(1) == scores.labels).mean())}
    )
    values |= {f"retrieval_at_{rank}": float(found_within(scores, rank).mean()) for rank in RANKS}
    return values | {"loss": float(example_losses(scores.by_text, scores.targets).mean())}


def measurements(scores: Scores, resamples: int) -> dict[str, ZeroShotMeasurement]:
    """The same with bootstrap 95 % intervals over pictures, and what guessing would give."""
    measured = {}
    if scores.by_class is not None:
        count = scores.by_class.shape[1]
        hits = scores.by_class.argmax(1) == scores.labels
        measured["accuracy"] = _measurement(hits, 1 / count, count, resamples)
        measured["balanced_accuracy"] = _balanced(hits, scores.labels, count, resamples)
    count = scores.by_text.shape[1]
    for rank in RANKS:
        chance = min(rank / count, 1.0)
        measured[f"retrieval_at_{rank}"] = _measurement(found_within(scores, rank), chance, count, resamples)
    return measured


def found_within(scores: Scores, rank: int) -> np.ndarray:
    """Whether the right text is among the ``rank`` best of each picture ``(N,)``; ties count against it."""
    own = scores.by_text[np.arange(len(scores.targets)), scores.targets]
    found: np.ndarray = (scores.by_text >= own[:, None]).sum(1) <= rank
    return found


def _balanced(hits: np.ndarray, labels: np.ndarray, classes: int, resamples: int) -> ZeroShotMeasurement:
    """Mean recall over the classes: always answering one of them gives no more than chance."""
    recalls = [hits[labels == label] for label in range(classes)]
    # Drawing n pictures of a class again is drawing n times with its recall.
    generator = np.random.default_rng(0)
    draws = np.mean([generator.binomial(len(one), one.mean(), resamples) / len(one) for one in recalls], axis=0)
    low, high = np.percentile(draws, [2.5, 97.5])
    value = Measurement(
        value=float(np.mean([one.mean() for one in recalls])), ci95=(float(low), float(high)), n=len(hits),
        over="examples of each class (bootstrap)",
    )  # fmt: skip
    return ZeroShotMeasurement(measurement=value, chance=1 / classes, candidates=classes)


def _measurement(hits: np.ndarray, chance: float, candidates: int, resamples: int) -> ZeroShotMeasurement:
    right: Any = np.stack([~hits, hits], axis=1).astype(float)
    value = bootstrap_interval("accuracy", right, np.ones(len(hits), dtype=int), resamples, seed=0)
    return ZeroShotMeasurement(measurement=value, chance=chance, candidates=candidates)
