"""Metrics by name, and what says how far to trust them: bootstrap intervals, paired differences, seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse, stats
from scipy.special import expit, log_softmax
from scipy.special import softmax as _softmax

from hf_fsl.config.sections import METRICS
from hf_fsl.core.errors import UserError
from hf_fsl.core.measurement import Measurement
from hf_fsl.core.records import MANY_CLASSES

BINS = 15
"""Equal-width bins of the expected calibration error."""

Weights = np.ndarray | None


def predicted_labels(logits: np.ndarray, multi_label: bool) -> np.ndarray:
    """Class indices ``(N,)``, or a multi-hot matrix ``(N, C)`` at the threshold 0.5 for multi-label tasks."""
    return (logits > 0).astype(int) if multi_label else logits.argmax(-1)


def correct(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which predictions are right ``(N,)``; of multi-label ones, those right in every label."""
    same = np.asarray(predictions == labels)
    return np.asarray(same.all(-1)) if same.ndim == 2 else same


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of predictions that are right; rows must match in every label."""
    return float(correct(predictions, labels).mean())


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Unweighted mean of the F1 of the classes that occur in labels or predictions, as scikit-learn averages it."""
    if labels.ndim == 2:
        return float(f1_from_counts((predictions * labels).sum(0), predictions.sum(0), labels.sum(0)).mean())
    return float(macro_f1_of(*class_counts(predictions, labels)))


def mcc(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation for C classes (Gorodkin 2004); 0 where only one class is predicted or present.

    Raises:
        ValueError: for multi-label predictions, for which it is not defined.
    """
    if labels.ndim == 2:
        raise ValueError("mcc is not defined for multi-label tasks; leave it out of evaluation.metrics.")
    return float(mcc_of(*class_counts(predictions, labels)))


CLASSIFICATION: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "mcc": mcc,
}


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts ``(C, C)``: rows true classes, columns predicted ones."""
    flat = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def confusions(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> dict[str, Any]:
    """What a record keeps of labels and predictions ``(N,)``: the matrix of few classes, of many what occurs.

    From ``MANY_CLASSES`` on a matrix is mostly zeros, and grows as the square of their number.
    """
    if num_classes < MANY_CLASSES:
        return {"confusion_matrix": confusion_matrix(labels, predictions, num_classes).tolist()}
    flat, counts = np.unique(labels * num_classes + predictions, return_counts=True)
    cells = zip((flat // num_classes).tolist(), (flat % num_classes).tolist(), counts.tolist(), strict=True)
    return {"confusions": list(cells)}


def class_counts(predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class ``(C,)``: how often it was predicted rightly, was predicted, and occurs."""
    size = int(max(labels.max(), predictions.max())) + 1
    hits = np.bincount(labels[predictions == labels], minlength=size)
    return hits, np.bincount(predictions, minlength=size), np.bincount(labels, minlength=size)


def f1_from_counts(hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """F1 of each class; 0 where a class is neither predicted nor present."""
    total = predicted + actual
    return np.divide(2.0 * hits, total, out=np.zeros(np.shape(total)), where=total > 0)


def macro_f1_of(hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Macro-F1 from counts of classes ``(…, C)``: ``(…)``, over the classes that occur in each row."""
    f1 = f1_from_counts(hits, predicted, actual)
    result: np.ndarray = f1.sum(-1) / np.maximum((predicted + actual > 0).sum(-1), 1)
    return result


def mcc_of(hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Matthews correlation from counts of classes ``(…, C)``: ``(…)``."""
    right, predicted, actual = hits.sum(-1, dtype=float), predicted.astype(float), actual.astype(float)
    total = actual.sum(-1)
    covariance = right * total - (predicted * actual).sum(-1)
    spread = (total**2 - (predicted**2).sum(-1)) * (total**2 - (actual**2).sum(-1))
    return np.divide(covariance, np.sqrt(spread), out=np.zeros(np.shape(total)), where=spread > 0)


def calibration_bins(confidences: np.ndarray) -> np.ndarray:
    """Bin of each confidence: bin b holds (b / BINS, (b + 1) / BINS]."""
    return np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)


def calibration_terms(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence of every decision and whether it was right.

    Single-label: the top class of each example. Multi-label: every label of every example, decided at 0.5.
    """
    if labels.ndim == 2:
        decided = probabilities >= 0.5
        return np.where(decided, probabilities, 1 - probabilities).ravel(), (decided == (labels > 0)).ravel()
    return probabilities.max(-1), probabilities.argmax(-1) == labels


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over bins, weighted by their sizes (Guo et al. 2017)."""
    confidences, right = calibration_terms(probabilities, labels)
    gaps = np.bincount(calibration_bins(confidences), weights=confidences - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def example_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log-loss of each example ``(N,)``: cross-entropy, or the mean binary cross-entropy of its labels."""
    if labels.ndim == 2:
        losses: np.ndarray = (np.logaddexp(0, logits) - logits * labels).mean(-1)
        return losses
    chosen: np.ndarray = -log_softmax(logits.astype(float), axis=-1)[np.arange(len(labels)), labels]
    return chosen


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities ``(N, C)``."""
    result: np.ndarray = _softmax(logits, axis=-1)
    return result


def probabilities_of(logits: np.ndarray, multi_label: bool) -> np.ndarray:
    """Softmax over classes, or a sigmoid for each label."""
    result: np.ndarray = expit(logits) if multi_label else softmax(logits)
    return result


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
    predictions = predicted_labels(logits, multi_label)
    values: dict[str, float] = {}
    for name in dict.fromkeys(names):
        if name == "ece":
            values[name] = expected_calibration_error(probabilities_of(logits, multi_label), labels)
        elif name == "loss":
            values[name] = float(example_losses(logits, labels).mean())
        elif name in CLASSIFICATION:
            try:
                values[name] = CLASSIFICATION[name](predictions, labels)
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
    predictions = predicted_labels(logits, multi_label)
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
        value=macro_f1(ours, labels) - macro_f1(theirs, labels),
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
        right = correct(predictions, labels).astype(float)
        return lambda weights: weights @ right / size
    if metric == "loss":
        losses = example_losses(logits, labels)
        return lambda weights: weights @ losses / size
    if metric == "ece":
        multi_label = labels.ndim == 2
        confidences, right = calibration_terms(probabilities_of(logits, multi_label), labels)
        each = len(confidences) // size
        gaps = np.zeros((size, BINS))
        np.add.at(gaps, (np.repeat(np.arange(size), each), calibration_bins(confidences)), confidences - right)
        return lambda weights: np.abs(weights @ gaps).sum(-1) / (size * each)
    if labels.ndim == 2:
        hits, predicted, actual = predictions * labels, predictions, labels
        return lambda weights: f1_from_counts(weights @ hits, weights @ predicted, weights @ actual).mean(-1)
    classes, right = logits.shape[-1], predictions == labels
    hits, predicted, actual = (
        sparse.csr_array((kept.astype(float), (np.arange(size), group)), shape=(size, classes))
        for kept, group in ((right, labels), (np.ones(size), predictions), (np.ones(size), labels))
    )
    of = macro_f1_of if metric == "macro_f1" else mcc_of
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
