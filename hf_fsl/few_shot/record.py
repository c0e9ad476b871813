"""The record of a few-shot run: episodes, the published head, and how it did on the test split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from hf_fsl.config.few_shot import FewShotRecipeConfig
from hf_fsl.config.loading import to_dict
from hf_fsl.core import environment
from hf_fsl.core.measurement import Measurement
from hf_fsl.core.paths import portable
from hf_fsl.core.records import Comparison, EpisodesRecord, HeadRecord, ModelRecord, RunRecord
from hf_fsl.core.task import Task
from hf_fsl.few_shot.adaptation.adapt import Adapted
from hf_fsl.few_shot.pools import Examples, Pools
from hf_fsl.metrics.intervals import confusions, paired_difference, probabilities_of
from hf_fsl.metrics.measure import compare, measure, measured_cost, prediction_table, write_tables
from hf_fsl.models.backbones.cards import model_license
from hf_fsl.models.backbones.classification import loaded_commit
from hf_fsl.models.export.export import Exported

_SHOWN = 3
"""Examples for the card."""
_UNKNOWN = 500
"""Examples of other classes on which refusal is measured."""


@dataclass(frozen=True)
class MeasuredClassifier:
    """Logits ``(N, C)`` and labels ``(N,)`` on test, its metrics, and how refusal did."""

    task: Task
    logits: np.ndarray
    labels: np.ndarray
    inputs: list[Any]
    metrics: dict[str, Measurement]
    majority: Comparison
    """Of what is published with always the most frequent class of the test."""
    refusal: dict[str, Measurement | None]


def measure_classifier(
    classifier: Any, test: Examples, pools: Pools, config: FewShotRecipeConfig
) -> MeasuredClassifier:
    """Reads the test split once.

    Args:
        classifier: a fitted :class:`hf_fsl.FewShotClassifier` over the classes of the pools.
    """
    order = [pools.names.index(name) for name in classifier.classes_]
    names = tuple(str(name) for name in classifier.classes_)
    labels = np.argsort(order)[test.labels]
    task = Task(modality="image" if config.data.image_column else "text", label_names=names)
    logits = classifier.logits(test.inputs)
    refusal: dict[str, Measurement | None] = {}
    if classifier.state_.refusal is not None:
        known = classifier.refusal_scores(test.inputs)
        passed = (~classifier.refuses(test.inputs)).astype(float)
        refusal["coverage"] = _share(passed, config.evaluation.bootstrap_resamples)
        foreign = pools.base.inputs
        if foreign:
            rows = np.random.default_rng(0).permutation(len(foreign))[:_UNKNOWN]
            unknown = classifier.refusal_scores([foreign[row] for row in rows])
            truth = np.r_[np.zeros(len(known)), np.ones(len(unknown))]
            refusal["auroc"] = Measurement(value=float(roc_auc_score(truth, np.r_[known, unknown])), n=len(unknown))
    metrics = measure(logits, labels, task, config.evaluation)
    most = np.full(len(labels), np.bincount(labels).argmax())
    majority = compare("majority", logits.argmax(-1), most, labels, config.evaluation)
    return MeasuredClassifier(task, logits, labels, test.inputs, metrics, majority, refusal)


def few_shot_record(
    config: FewShotRecipeConfig,
    command: str,
    pools: Pools,
    episodes: EpisodesRecord,
    classifier: Any,
    exported: Exported,
    measured: MeasuredClassifier,
    trained: Adapted | None,
    wall_seconds: float,
    processes: int,
) -> RunRecord:
    """Everything a few-shot run was given, did and measured."""
    task, state = measured.task, classifier.state_
    model = classifier.backbone_.model
    adapted = classifier.adapted_ or trained
    probabilities = probabilities_of(measured.logits, False)
    text = task.modality == "text"
    return RunRecord(
        recipe=config.recipe,
        command=command,
        config=to_dict(config) | {"output_dir": portable(config.output_dir)},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=task.to_dict(),
        data=pools.splits.record,
        model=ModelRecord(
            base_model=config.model.model_name_or_path,
            base_revision=loaded_commit(config.model.model_name_or_path, config.model.revision),
            base_license=model_license(config.model.model_name_or_path),
            architecture=type(exported.model).__name__,
            adapter={"method": "none"} if adapted is None else to_dict(config)["adapter"],
            total_parameters=sum(parameter.numel() for parameter in model.parameters()),
            trainable_parameters=0 if adapted is None else adapted.parameters.trainable,
            prompt=classifier.backbone_.modules.prompt(None) if text else "",
            truncation=classifier.backbone_.truncation(pools.support.inputs + pools.query.inputs) if text else None,
        ),
        metrics=measured.metrics,
        comparisons=[measured.majority],
        episodes=episodes,
        head=HeadRecord(
            shots=dict(zip(task.label_names, state.counts, strict=True)),
            estimator=state.estimator,
            hyperparameters=state.hyperparameters,
            reason=classifier.reason_,
            stock=exported.stock,
            published_as=exported.reason,
            label_texts=dict(zip(task.label_names, state.label_texts or [], strict=False)),
            refusal=measured.refusal,
        ),
        **confusions(measured.labels, measured.logits.argmax(-1), len(task.label_names)),
        examples=[
            {
                "input": measured.inputs[row] if text else "picture.png",
                "label": task.label_names[int(probabilities[row].argmax())],
                "score": float(probabilities[row].max()),
            }
            for row in range(min(_SHOWN, len(measured.inputs)))
        ],
        cost=measured_cost(wall_seconds, processes),
        environment=environment.versions(),
    )


def report(record: RunRecord) -> Iterator[str]:
    """The methods on the episodes and the published classifier, a line each."""
    drawn = record.episodes
    assert drawn is not None
    for row in drawn.results:
        low, high = row.accuracy.ci95 or (float("nan"), float("nan"))
        name = f"{row.method}{', meta-trained' if row.meta_trained else ''}"
        over = f", over {drawn.reference} {row.difference.value:+.4f} {row.difference.ci95}" if row.difference else ""
        yield f"k={row.k_shot} {name}: {row.accuracy.value:.4f} [{low:.4f}, {high:.4f}]{over}"
    if (accuracy := record.metrics.get("accuracy")) is not None:
        yield f"published, on {accuracy.n} test examples: accuracy {accuracy.value:.4f} {accuracy.ci95}"


def write_predictions(path: Path, measured: MeasuredClassifier) -> Path:
    """One row a test example, for error analysis."""
    task = measured.task
    texts = {"text": measured.inputs} if task.modality == "text" else {}
    return write_tables(path, [prediction_table({}, texts, measured.labels, measured.logits, task.label_names)])


def _share(passed: np.ndarray, resamples: int) -> Measurement:
    return replace(paired_difference(passed, np.zeros_like(passed), resamples), over="examples (bootstrap)")
