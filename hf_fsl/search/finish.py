"""The end of a search: a few different points of the front retrained, their learning rates tuned again, compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.metrics import paired_difference
from hf_fsl.records import Measurement
from hf_fsl.search.alone import TrainedAlone, predict, train_alone
from hf_fsl.search.data import SearchData, Split
from hf_fsl.search.errors import SearchError
from hf_fsl.search.meter import Meter
from hf_fsl.search.nas import MemberScore
from hf_fsl.search.space import Architecture, Sites, trainable_parameters
from hf_fsl.search.statistics import holm, paired_p_value


@dataclass(frozen=True)
class Retrained:
    """A point of the front, trained alone over seeds.

    Attributes:
        tuned: validation loss of each learning rate that was tried, with the first seed.
        validation: validation loss of each seed.
        test_losses: ``(seeds, N)`` log-loss of each test example.
        test_correct: ``(seeds, N)``.
        best: the training of the seed with the lowest validation loss: what is handed out.
    """

    architecture: Architecture
    parameters: int
    tuned: dict[float, float]
    validation: list[float]
    test_losses: np.ndarray
    test_correct: np.ndarray
    best: TrainedAlone

    @property
    def validation_loss(self) -> float:
        return float(np.mean(self.validation))


@dataclass(frozen=True)
class Comparison:
    """A retrained point against the one with the lowest validation loss: test accuracy and log-loss, paired.

    ``p_value`` is of the log-loss; ``adjusted`` is Holm's over all comparisons.
    """

    architecture: Architecture
    against: Architecture
    accuracy: Measurement
    loss: Measurement
    p_value: float
    adjusted: float


def diverse_points(front: Sequence[MemberScore], count: int = 5) -> list[Architecture]:
    """Points of a front spread evenly over the logarithm of their size, the lowest loss always among them."""
    if not front or count < 1:
        raise SearchError(f"Points to retrain: at least one of a front of at least one; got {count} of {len(front)}.")
    rest = sorted(front, key=lambda score: score.loss)
    chosen = [rest.pop(0)]
    while rest and len(chosen) < count:
        sizes = [math.log(max(1, score.parameters)) for score in chosen]
        gaps = [min(abs(math.log(max(1, score.parameters)) - size) for size in sizes) for score in rest]
        chosen.append(rest.pop(int(np.argmax(gaps))))
    return [score.architecture for score in sorted(chosen, key=lambda score: score.parameters)]


def retrain(
    model: nn.Module,
    data: SearchData,
    test: Split,
    sites: Sites,
    architecture: Architecture,
    config: SupernetConfig,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    learning_rates: Sequence[float] | None = None,
    meter: Meter | None = None,
    tell: Callable[[TrainedAlone], None] | None = None,
) -> Retrained:
    """Tunes the learning rate on validation with the first seed, trains over all seeds, evaluates each once on test.

    Args:
        learning_rates: to try; None: a third of the architecture's, its own, and three times it. The training at the
            best of them counts as the first seed's.
        tell: called after each training.

    Raises:
        SearchError: no seeds or learning rates.
    """
    rates = list(learning_rates or (architecture.learning_rate * factor for factor in (1 / 3, 1.0, 3.0)))
    if not seeds or not rates:
        raise SearchError("Retraining needs a seed and a learning rate.")
    if meter is not None:
        meter.phase = "retraining"

    def run(rate: float, seed: int) -> TrainedAlone:
        done = train_alone(
            model, data, sites, architecture.replace(learning_rate=rate), config, seed=seed, meter=meter
        )  # fmt: skip
        if tell is not None:
            tell(done)
        return done

    tried: dict[float, float] = {}
    first: TrainedAlone | None = None
    for rate in rates:
        done = run(rate, seeds[0])
        tried[rate] = done.validation_loss
        if first is None or done.validation_loss < first.validation_loss:
            first = done
    assert first is not None
    best, validation, losses, correct = first, [], [], []
    for number, seed in enumerate(seeds):
        done = first if number == 0 else run(first.architecture.learning_rate, seed)
        logits, labels = predict(done.model, test, config.per_device_eval_batch_size)
        losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().numpy())
        correct.append((logits.argmax(-1) == labels).numpy())
        validation.append(done.validation_loss)
        best = done if done.validation_loss < best.validation_loss else best
    return Retrained(
        first.architecture, trainable_parameters(first.architecture, sites), tried, validation,
        np.stack(losses), np.stack(correct), best,
    )  # fmt: skip


def compare(points: Sequence[Retrained]) -> list[Comparison]:
    """Every point against the one with the lowest validation loss, on the same test examples, means over seeds."""
    if not points:
        raise SearchError("Nothing to compare: no point was retrained.")
    reference = min(points, key=lambda point: point.validation_loss)
    others = [point for point in points if point is not reference]
    p_values = [paired_p_value(point.test_losses.mean(0), reference.test_losses.mean(0)) for point in others]
    return [
        Comparison(
            point.architecture,
            reference.architecture,
            paired_difference(point.test_correct.mean(0), reference.test_correct.mean(0)),
            paired_difference(point.test_losses.mean(0), reference.test_losses.mean(0)),
            p_value,
            adjusted,
        )
        for point, p_value, adjusted in zip(others, p_values, holm(p_values), strict=True)
    ]
