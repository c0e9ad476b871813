"""From logits and labels to a RunRecord: every number with its interval, every comparison paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_fsl import environment
from hf_fsl.config import EvaluationConfig, FineTuneConfig, to_dict
from hf_fsl.data import Splits
from hf_fsl.files import replaced
from hf_fsl.metrics import (
    OURS,
    bootstrap_interval,
    compute_metrics,
    confusions,
    correct,
    f1_difference,
    macro_f1,
    paired_difference,
    predicted_labels,
    probabilities_of,
    seeds_interval,
)
from hf_fsl.records import Comparison, CostRecord, Measurement, ModelRecord, RunRecord, SeedRecord
from hf_fsl.resources import portable
from hf_fsl.tasks import Task


@dataclass(frozen=True)
class SeedOutcome:
    """One trained seed: its record and its test logits ``(N, C)``."""

    record: SeedRecord
    logits: np.ndarray


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


def sample_inputs(split: datasets.Dataset, task: Task, count: int) -> list[Any]:
    """The first inputs of a split as a pipeline takes them: texts, pairs of texts, or images."""
    rows = split.select(range(min(count, len(split))))
    columns = [list(rows[column]) for column in task.input_columns]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


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


def build_record(
    config: FineTuneConfig,
    command: str,
    splits: Splits,
    labels: np.ndarray,
    model: ModelRecord,
    outcomes: Sequence[SeedOutcome],
    published: SeedOutcome,
    comparisons: list[Comparison],
    wall_seconds: float,
    processes: int,
) -> RunRecord:
    """Everything a run was given, did and measured."""
    task = splits.task
    over_seeds = {}
    if len(outcomes) > 1:
        for name in published.record.test:
            over_seeds[name] = seeds_interval([outcome.record.test[name].value for outcome in outcomes])
            over_seeds[name].n = len(labels)
    confused = {}
    if not task.multi_label:
        confused = confusions(labels, predicted_labels(published.logits, False), len(task.label_names))
    return RunRecord(
        recipe=config.recipe,
        command=command,
        config=to_dict(config) | {"output_dir": portable(config.output_dir)},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=task.to_dict(),
        data=splits.record,
        model=model,
        runs=[outcome.record for outcome in outcomes],
        published_seed=published.record.seed,
        metrics=published.record.test,
        metrics_over_seeds=over_seeds,
        comparisons=comparisons,
        **confused,
        examples=_examples(splits, published.logits),
        cost=measured_cost(wall_seconds, processes),
        environment=environment.versions(),
    )


def measured_cost(wall_seconds: float, processes: int) -> CostRecord:
    """What this process took so far, on this machine."""
    return CostRecord(
        wall_seconds=wall_seconds,
        peak_memory_bytes=environment.peak_memory_bytes(),
        hardware=environment.hardware(),
        processes=processes,
    )


def write_predictions(path: Path, splits: Splits, labels: np.ndarray, outcomes: Sequence[SeedOutcome]) -> Path:
    """One row a test example and seed, for error analysis: input (texts), label, prediction, its probability."""
    task, names = splits.task, splits.task.label_names
    columns = () if task.modality == "image" else task.input_columns
    texts = {column: list(splits.test[column]) for column in columns}
    tables = [
        prediction_table({"seed": outcome.record.seed}, texts, labels, outcome.logits, names, task.multi_label)
        for outcome in outcomes
    ]
    return write_tables(path, tables)


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
    with replaced(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)
    return path


def _examples(splits: Splits, logits: np.ndarray) -> list[dict[str, Any]]:
    """The first test examples with what was predicted for them; a picture is shown by a name."""
    task = splits.task
    probabilities = probabilities_of(logits, task.multi_label)
    rows = []
    for index in range(min(3, len(splits.test))):
        example = splits.test[index]
        given = [example[column] for column in task.input_columns] if task.modality != "image" else ["picture.png"]
        top = int(probabilities[index].argmax())
        rows.append(
            {
                "input": given if len(given) > 1 else given[0],
                "label": task.label_names[top],
                "score": float(probabilities[index, top]),
            }
        )
    return rows


def _named(row: Any, names: Sequence[str]) -> Any:
    return [names[int(i)] for i in np.flatnonzero(row)] if np.ndim(row) else names[int(row)]
