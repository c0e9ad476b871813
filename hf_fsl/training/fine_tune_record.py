"""From logits and labels to a RunRecord: every number with its interval, every comparison paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_fsl.config.loading import to_dict
from hf_fsl.config.sections import FineTuneConfig
from hf_fsl.core import environment
from hf_fsl.core.paths import portable
from hf_fsl.core.records import Comparison, ModelRecord, RunRecord, SeedRecord
from hf_fsl.core.task import Task
from hf_fsl.data.loading import Splits
from hf_fsl.metrics.intervals import confusions, predicted_labels, probabilities_of, seeds_interval
from hf_fsl.metrics.measure import measured_cost, prediction_table, write_tables


@dataclass(frozen=True)
class SeedOutcome:
    """One trained seed: its record and its test logits ``(N, C)``."""

    record: SeedRecord
    logits: np.ndarray


def sample_inputs(split: datasets.Dataset, task: Task, count: int) -> list[Any]:
    """The first inputs of a split as a pipeline takes them: texts, pairs of texts, or images."""
    rows = split.select(range(min(count, len(split))))
    columns = [list(rows[column]) for column in task.input_columns]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


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
