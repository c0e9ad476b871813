"""Metrics with intervals: as ``evaluate.Metric`` objects and as functions of arrays."""

from hf_fsl.metrics.classification import MCC, Accuracy, ExpectedCalibrationError, MacroF1
from hf_fsl.metrics.intervals import (
    OURS,
    MetricError,
    bootstrap_interval,
    compute_metrics,
    confusion_matrix,
    confusions,
    correct,
    f1_difference,
    macro_f1,
    paired_difference,
    predicted_labels,
    probabilities_of,
    seeds_interval,
    softmax,
)

__all__ = [
    "MCC",
    "OURS",
    "Accuracy",
    "ExpectedCalibrationError",
    "MacroF1",
    "MetricError",
    "bootstrap_interval",
    "compute_metrics",
    "confusion_matrix",
    "confusions",
    "correct",
    "f1_difference",
    "macro_f1",
    "paired_difference",
    "predicted_labels",
    "probabilities_of",
    "seeds_interval",
    "softmax",
]
