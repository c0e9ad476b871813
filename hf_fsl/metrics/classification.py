"""``evaluate.Metric`` subclasses that need no Hub: accuracy, macro-F1, Matthews correlation, calibration error."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from hf_fsl.metrics.intervals import CLASSIFICATION, expected_calibration_error

_LABELS = [
    datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
    datasets.Features(
        {
            "predictions": datasets.List(datasets.Value("int64")),
            "references": datasets.List(datasets.Value("int64")),
        }
    ),
]


class _LabelMetric(evaluate.Metric):
    """A metric of predicted labels: indices ``(N,)``, or multi-hot rows ``(N, C)`` for multi-label tasks."""

    function = "accuracy"
    description = ""

    def __init__(self, **options: Any) -> None:
        # evaluate names a metric after its module; without this all of ours would share one.
        super().__init__(config_name=self.function, **options)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description, citation="", inputs_description=_LabelMetric.__doc__ or "", features=_LABELS
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        function = CLASSIFICATION[self.function]
        return {self.function: function(np.asarray(predictions), np.asarray(references))}


class Accuracy(_LabelMetric):
    """Share of examples predicted right; of multi-label examples, those right in every label."""

    function = "accuracy"
    description = "Share of examples predicted right."


class MacroF1(_LabelMetric):
    """F1 of each class that occurs among labels or predictions, averaged without weights."""

    function = "macro_f1"
    description = "Unweighted mean of the classes' F1."


class MCC(_LabelMetric):
    """Matthews correlation coefficient for any number of classes (Gorodkin 2004); 0 where it is undefined."""

    function = "mcc"
    description = "Matthews correlation coefficient."


class ExpectedCalibrationError(evaluate.Metric):
    """Expected calibration error of probabilities ``(N, C)`` against labels ``(N,)``, in 15 bins (Guo et al. 2017)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(config_name="ece", **options)

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}
        )
        return evaluate.MetricInfo(
            description="Mean gap between confidence and accuracy.",
            citation="",
            inputs_description="Probabilities (N, C) and labels (N,).",
            features=features,
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"ece": expected_calibration_error(np.asarray(predictions), np.asarray(references))}
