"""The metrics as functions of arrays, each with optional weights of the examples, which is what a bootstrap needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax
from scipy.special import softmax as _softmax

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
