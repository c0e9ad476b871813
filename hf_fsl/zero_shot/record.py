"""What the zero-shot recipes share: work spread over processes, the record, the predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from hf_fsl.config.loading import to_dict
from hf_fsl.config.zero_shot import ZeroShotClipConfig, ZeroShotConfig, ZeroShotNLIConfig
from hf_fsl.core import environment
from hf_fsl.core.paths import portable
from hf_fsl.core.records import ModelRecord, RunRecord
from hf_fsl.core.task import Modality, Task
from hf_fsl.data.loading import Splits
from hf_fsl.metrics.intervals import confusions
from hf_fsl.metrics.measure import measure, measured_cost, prediction_table, write_tables
from hf_fsl.models.backbones.cards import model_license
from hf_fsl.models.backbones.classification import loaded_commit
from hf_fsl.models.label_texts import complete_label_texts
from hf_fsl.zero_shot.evaluation import Compared, EvidenceOf, LabeledInputs

_SHOWN = 3
"""Examples for the card."""


def across_processes(
    evidence: Callable[..., np.ndarray], config: ZeroShotConfig, accelerator: Accelerator
) -> EvidenceOf:
    """A pipeline's ``evidence`` with the inputs split among the processes; all get the whole result."""

    def run(inputs: Sequence[Any], labels: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        rows = np.array_split(np.arange(len(inputs)), accelerator.num_processes)[accelerator.process_index]
        part = np.empty((0, len(labels)))
        if len(rows):
            part = evidence(
                [inputs[row] for row in rows], list(labels), hypothesis_template=list(templates),
                label_texts=complete_label_texts(labels, config.label_texts),
                progress=accelerator.is_main_process,
            )  # fmt: skip
        return np.concatenate(gather_object([part]))

    return run


def mean_of_templates(evidence: EvidenceOf) -> EvidenceOf:
    """The same for a scorer whose evidence from several templates is their mean: each template is looked at once."""
    known: dict[tuple[int, tuple[str, ...], str], tuple[Sequence[Any], np.ndarray]] = {}

    def run(inputs: Sequence[Any], labels: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        for template in templates:
            key = (id(inputs), tuple(labels), template)
            if key not in known:
                known[key] = (
                    inputs,
                    evidence(inputs, labels, [template]),
                )  # with the inputs, or their id could come again
        return np.mean([known[id(inputs), tuple(labels), template][1] for template in templates], axis=0)

    return run


def unlabeled_inputs(splits: Splits, count: int, seed: int) -> list[Any]:
    """Training inputs without their labels, drawn at random: of every class, whatever it is called."""
    rows = np.random.default_rng(seed).permutation(len(splits.train))[:count]
    return list(splits.train.select(sorted(rows.tolist()))[splits.task.input_columns[0]])


def build_zero_shot_record(
    config: ZeroShotNLIConfig | ZeroShotClipConfig,
    command: str,
    splits: Splits,
    model: Any,
    compared: Compared,
    scorer: str,
    test: LabeledInputs,
    wall_seconds: float,
    processes: int,
    pipeline_tag: str,
) -> RunRecord:
    """Everything a zero-shot run was given, did and measured.

    Args:
        command: that was run.
        splits: where the examples come from.
        model: what is published.
        compared: what the methods gave.
        scorer: the one among the compared that the published model is.
        test: what it was measured on.
        wall_seconds, processes: of the run.
        pipeline_tag: the task on the Hub.
    """
    settings = model.config
    text = config.data.image_column is None
    label_names: tuple[str, ...] = tuple(name for _, name in sorted((settings.id2label or {}).items())) if text else ()
    modality: Modality = "text-pair" if text else "image"
    logarithm = compared.chosen[scorer]
    asked = Task(modality=modality, label_names=tuple(test.names))
    total = sum(parameter.numel() for parameter in model.parameters())
    return RunRecord(
        recipe=config.recipe,
        command=command,
        config=to_dict(config) | {"output_dir": portable(config.output_dir)},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=Task(modality=modality, label_names=label_names).to_dict(),
        data=splits.record,
        model=ModelRecord(
            base_model=config.model.model_name_or_path,
            base_revision=loaded_commit(config.model.model_name_or_path, config.model.revision),
            base_license=model_license(config.model.model_name_or_path),
            architecture=type(model).__name__,
            adapter={"method": "none"},
            total_parameters=total,
            trainable_parameters=0,
        ),
        metrics=measure(logarithm, test.labels, asked, config.evaluation),
        comparisons=compared.comparisons,
        methods=compared.methods,
        candidate_labels=test.names,
        pipeline_tag=pipeline_tag,
        **confusions(test.labels, logarithm.argmax(-1), len(test.names)),
        examples=[
            {
                "input": test.inputs[row] if text else "picture.png",
                "label": test.names[int(logarithm[row].argmax())],
                "score": float(np.exp(logarithm[row].max())),
            }
            for row in range(min(_SHOWN, len(test.inputs)))
        ],  # fmt: skip
        cost=measured_cost(wall_seconds, processes),
        environment=environment.versions(),
    )


def report(record: RunRecord) -> Iterator[str]:
    """The methods and comparisons, a line each."""
    for method in record.methods:
        low, high = method.test.ci95 or (float("nan"), float("nan"))
        mark = " <- chosen" if method.chosen else ""
        chosen_on = f"validation {method.validation.value:.4f}, " if method.validation else ""
        yield f"{method.label}: {chosen_on}test {method.test.value:.4f} [{low:.4f}, {high:.4f}]{mark}"
    for row in record.comparisons:
        of = f" of {row.of}" if row.of else ""
        yield f"accuracy{of} over {row.name}: {row.difference.value:+.4f}  95 % {row.difference.ci95}"


def write_predictions(path: Path, test: LabeledInputs, compared: Compared) -> Path:
    """One row a test example and scorer, for error analysis."""
    texts = {"text": test.inputs} if isinstance(test.inputs[0], str) else {}
    tables = [
        prediction_table({"scorer": name}, texts, test.labels, logarithm, test.names)
        for name, logarithm in compared.chosen.items()
    ]
    return write_tables(path, tables)
