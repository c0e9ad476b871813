"""From logits and labels to what a record holds: measurements with intervals, paired comparisons, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_fsl.config.sections import EvaluationConfig
from hf_fsl.core import environment
from hf_fsl.core.files import atomic_write
from hf_fsl.core.measurement import Measurement
from hf_fsl.core.records import Comparison, CostRecord
from hf_fsl.core.task import Task
from hf_fsl.metrics.intervals import (
    OURS,
    bootstrap_interval,
    compute_metrics,
    correct,
    f1_difference,
    macro_f1,
    paired_difference,
    predicted_labels,
    probabilities_of,
)


def measure(logits: np.ndarray, labels: np.ndarray, task: Task, config: EvaluationConfig) -> dict[str, Measurement]:
    """Every metric of the config on a split, ours with bootstrap 95 % intervals."""
    measured: dict[str, Measurement] = {}
    for name in dict.fromkeys([*config.metrics_of(task.multi_label), "loss"]):
        if name in OURS:
            measured[name] = bootstrap_interval(
                name, logits, labels, config.bootstrap_resamples, seed=0, multi_label=task.multi_label
            )
        else:
            values = compute_metrics([name], logits, labels, task.multi_label, config.trust_remote_code)
            measured |= {key: Measurement(value=value, n=len(labels)) for key, value in values.items()}
    return measured


def compare(
    name: str, ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray, config: EvaluationConfig
) -> Comparison:
    """Accuracy of another method and the paired difference, both over the same test examples.

    Of multi-hot predictions ``(N, C)`` macro F1, since hardly any is right in every label.
    """
    if labels.ndim == 2:
        return Comparison(
            name=name,
            metric="macro_f1",
            baseline=Measurement(value=macro_f1(theirs, labels), n=len(labels)),
            difference=f1_difference(ours, theirs, labels, config.bootstrap_resamples, seed=0),
        )
    right, other = correct(ours, labels), correct(theirs, labels)
    return Comparison(
        name=name,
        metric="accuracy",
        baseline=Measurement(value=float(other.mean()), n=len(labels)),
        difference=paired_difference(right, other, config.bootstrap_resamples, seed=0),
    )


def measured_cost(wall_seconds: float, processes: int) -> CostRecord:
    """What this process took so far, on this machine."""
    return CostRecord(
        wall_seconds=wall_seconds,
        peak_memory_bytes=environment.peak_memory_bytes(),
        hardware=environment.hardware(),
        processes=processes,
    )


def prediction_table(
    same: Mapping[str, Any],
    texts: Mapping[str, Sequence[str]],
    labels: np.ndarray,
    logits: np.ndarray,
    names: Sequence[str],
    multi_label: bool = False,
) -> pa.Table:
    """What was predicted for each example, by the names of the classes, with its probability.

    Args:
        same: columns that hold one value.
        texts: the inputs, column by column, where they are texts.
        logits: ``(N, C)``; log-probabilities will do.
    """
    predictions = predicted_labels(logits, multi_label)
    columns: dict[str, Any] = {name: [value] * len(labels) for name, value in same.items()}
    columns |= {"index": list(range(len(labels)))} | {name: list(values) for name, values in texts.items()}
    columns["label"] = [_named(row, names) for row in labels]
    columns["prediction"] = [_named(row, names) for row in predictions]
    columns["probability"] = probabilities_of(logits, multi_label).max(-1).tolist()
    columns["correct"] = correct(predictions, labels).tolist()
    return pa.table(columns)


def write_tables(path: Path, tables: Sequence[pa.Table]) -> Path:
    """Tables, one below the other, as Parquet."""
    with atomic_write(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)
    return path


def _named(row: Any, names: Sequence[str]) -> Any:
    return [names[int(i)] for i in np.flatnonzero(row)] if np.ndim(row) else names[int(row)]
