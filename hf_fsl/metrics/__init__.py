"""Metrics with intervals: as ``evaluate.Metric`` objects and as functions of arrays."""

from hf_fsl.metrics.classification import MCC, Accuracy, ExpectedCalibrationError, MacroF1
from hf_fsl.metrics.functions import (
    confusion_matrix,
    confusions,
    correct,
    macro_f1,
    predicted_labels,
    probabilities_of,
    softmax,
)
from hf_fsl.metrics.measuring import (
    OURS,
    MetricError,
    bootstrap_interval,
    compute_metrics,
    f1_difference,
    paired_difference,
    seeds_interval,
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
