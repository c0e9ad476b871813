"""Metrics by name, and what says how far to trust them: bootstrap intervals, paired differences, seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse, stats

from hf_fsl.config.sections import METRICS
from hf_fsl.core.errors import UserError
from hf_fsl.core.records import Measurement
from hf_fsl.metrics import functions as f

OURS = METRICS
_CHUNK = 200
"""Bootstrap resamples computed at a time,"""
_DRAWS = 1 << 24
"""and examples drawn for them, whichever are fewer: both bound the memory."""


class MetricError(UserError, ValueError):
    """A metric that cannot be computed."""


def compute_metrics(
    names: Sequence[str],
    logits: np.ndarray,
    labels: np.ndarray,
    multi_label: bool = False,
    trust_remote_code: bool = False,
) -> dict[str, float]:
    """Metrics of a split.

    Args:
        names: ours (accuracy, macro_f1, mcc, ece, loss), or whatever ``evaluate.load`` knows.
        logits: ``(N, C)``.
        labels: ``(N,)`` indices, or ``(N, C)`` multi-hot.
        trust_remote_code: lets ``evaluate.load`` run a metric's script, from a folder or the Hub.

    Raises:
        MetricError: no examples, shapes or labels that do not fit, NaN among the logits, or a metric that cannot be
            loaded or computed.
    """
    _check(logits, labels, multi_label)
    labels = labels.astype(int)
    predictions = f.predicted_labels(logits, multi_label)
    values: dict[str, float] = {}
    for name in dict.fromkeys(names):
        if name == "ece":
            values[name] = f.expected_calibration_error(f.probabilities_of(logits, multi_label), labels)
        elif name == "loss":
            values[name] = float(f.example_losses(logits, labels).mean())
        elif name in f.CLASSIFICATION:
            try:
                values[name] = f.CLASSIFICATION[name](predictions, labels)
            except ValueError as error:
                raise MetricError(str(error)) from error
        else:
            if not trust_remote_code:
                raise MetricError(
                    f"evaluation.metrics: {name!r} is none of {', '.join(OURS)}, so that evaluate would run a script "
                    "for it. Choose one of them or, if you trust it, set evaluation.trust_remote_code: true."
                )
            values |= _from_evaluate(name, predictions, labels, logits.shape[1])
    return values


def bootstrap_interval(
    metric: str,
    logits: np.ndarray,
    labels: np.ndarray,
    resamples: int = 2000,
    seed: int = 0,
    multi_label: bool = False,
) -> Measurement:
    """A metric of ours with its percentile bootstrap 95 % interval over examples (Efron 1979)."""
    if metric not in OURS:
        raise MetricError(f"bootstrap_interval knows {', '.join(OURS)}, not {metric!r}.")
    value = compute_metrics([metric], logits, labels, multi_label)[metric]
    labels = labels.astype(int)
    predictions = f.predicted_labels(logits, multi_label)
    resampled = _resampler(metric, logits, predictions, labels)
    draws = np.concatenate([resampled(weights) for weights in _weights(len(labels), resamples, seed)])
    low, high = np.percentile(draws, [2.5, 97.5])
    return Measurement(value=value, ci95=(float(low), float(high)), n=len(labels), over="examples (bootstrap)")


def paired_difference(ours: np.ndarray, theirs: np.ndarray, resamples: int = 2000, seed: int = 0) -> Measurement:
    """Mean of ``ours - theirs`` over the same examples, with a paired bootstrap 95 % interval.

    Args:
        ours, theirs: one value an example ``(N,)``; booleans for accuracy.
    """
    if ours.shape != theirs.shape or ours.ndim != 1 or len(ours) == 0:
        raise MetricError(
            f"A paired difference needs two equal, non-empty rows of values; got {ours.shape}, {theirs.shape}."
        )
    difference = ours.astype(float) - theirs.astype(float)
    draws = np.concatenate([weights @ difference / len(ours) for weights in _weights(len(ours), resamples, seed)])
    low, high = np.percentile(draws, [2.5, 97.5])
    return Measurement(
        value=float(difference.mean()), ci95=(float(low), float(high)), n=len(ours), over="examples (paired bootstrap)"
    )


def f1_difference(
    ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray, resamples: int = 2000, seed: int = 0
) -> Measurement:
    """Difference in macro F1 of multi-hot predictions ``(N, C)``, with a paired bootstrap 95 % interval."""
    of, other = (_resampler("macro_f1", labels, predictions, labels) for predictions in (ours, theirs))
    draws = np.concatenate([of(weights) - other(weights) for weights in _weights(len(labels), resamples, seed)])
    low, high = np.percentile(draws, [2.5, 97.5])
    return Measurement(
        value=f.macro_f1(ours, labels) - f.macro_f1(theirs, labels),
        ci95=(float(low), float(high)), n=len(labels), over="examples (paired bootstrap)",
    )  # fmt: skip


def seeds_interval(values: Sequence[float]) -> Measurement:
    """Mean over seeds with Student's t 95 % interval; no interval for a single seed."""
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return Measurement(value=mean, seeds=len(array), over="seeds")
    half = float(stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return Measurement(value=mean, ci95=(mean - half, mean + half), seeds=len(array), over="seeds (Student's t)")


def _resampler(
    metric: str, logits: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """weights ``(B, N)``, how often each example was drawn -> the metric of each resample ``(B,)``."""
    size = len(labels)
    if metric == "accuracy":
        right = f.correct(predictions, labels).astype(float)
        return lambda weights: weights @ right / size
    if metric == "loss":
        losses = f.example_losses(logits, labels)
        return lambda weights: weights @ losses / size
    if metric == "ece":
        multi_label = labels.ndim == 2
        confidences, right = f.calibration_terms(f.probabilities_of(logits, multi_label), labels)
        each = len(confidences) // size
        gaps = np.zeros((size, f.BINS))
        np.add.at(gaps, (np.repeat(np.arange(size), each), f.calibration_bins(confidences)), confidences - right)
        return lambda weights: np.abs(weights @ gaps).sum(-1) / (size * each)
    if labels.ndim == 2:
        hits, predicted, actual = predictions * labels, predictions, labels
        return lambda weights: f.f1_from_counts(weights @ hits, weights @ predicted, weights @ actual).mean(-1)
    classes, right = logits.shape[-1], predictions == labels
    hits, predicted, actual = (
        sparse.csr_array((kept.astype(float), (np.arange(size), group)), shape=(size, classes))
        for kept, group in ((right, labels), (np.ones(size), predictions), (np.ones(size), labels))
    )
    of = f.macro_f1_of if metric == "macro_f1" else f.mcc_of
    return lambda weights: of(weights @ hits, weights @ predicted, weights @ actual)


def _weights(size: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    chunk = max(1, min(_CHUNK, _DRAWS // size))
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        drawn = generator.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size).astype(float)


def _check(logits: np.ndarray, labels: np.ndarray, multi_label: bool) -> None:
    expected = logits.shape if multi_label else logits.shape[:1]
    if logits.ndim != 2 or len(logits) == 0 or labels.shape != expected:
        raise MetricError(
            f"Metrics need logits (N, C) with N above 0 and labels {'(N, C)' if multi_label else '(N,)'}; "
            f"got logits {logits.shape} and labels {labels.shape}."
        )
    broken = np.flatnonzero(np.isnan(logits).any(-1))
    if len(broken):
        raise MetricError(
            f"The logits of {len(broken)} of {len(logits)} examples are NaN, the first of example {broken[0]}. After "
            "training this means that it diverged: lower learning_rate, or do without float16."
        )
    classes = 2 if multi_label else logits.shape[1]
    values = labels.astype(float).reshape(len(labels), -1)
    wrong = np.flatnonzero(~np.isin(values, np.arange(classes)).all(-1))
    if len(wrong):
        allowed = "multi-hot (0 or 1)" if multi_label else f"class indices from 0 to {classes - 1}"
        raise MetricError(
            f"Labels are {allowed}, as many classes as logits; example {wrong[0]} has {labels[wrong[0]]} "
            f"({len(wrong)} such examples). Map labels to the classes of the model first."
        )


def _from_evaluate(name: str, predictions: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, float]:
    import datasets
    import evaluate

    multi_label = labels.ndim == 2
    options: dict[str, Any] = {}
    if name in ("f1", "precision", "recall") and (multi_label or classes > 2):
        options["average"] = "macro"
    try:
        metric = evaluate.load(name, "multilabel") if multi_label else evaluate.load(name)
        taken = metric.features if isinstance(metric.features, list) else [metric.features]
        if multi_label and not any(isinstance(given.get("predictions"), datasets.List) for given in taken):
            raise MetricError(
                f"evaluation.metrics: {name!r} of evaluate does not take the multi-hot predictions of a multi-label "
                "task. Use accuracy, macro_f1, ece or loss, or f1, precision or recall of evaluate."
            )
        result = metric.compute(predictions=predictions, references=labels, **options)
    except MetricError:
        raise
    except Exception as error:
        raise MetricError(
            f"evaluation.metrics: {name!r} is neither one of {', '.join(OURS)} nor could evaluate.load give it "
            f"({type(error).__name__}: {error})."
        ) from error
    return {key: float(value) for key, value in (result or {}).items() if np.ndim(value) == 0}
