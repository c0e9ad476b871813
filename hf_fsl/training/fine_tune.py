"""Transfer learning, one seed at a time: a backbone adapted to a task, validated, and measured once on test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from hf_fsl.config.loading import to_dict
from hf_fsl.config.sections import FineTuneConfig
from hf_fsl.core.measurement import TruncationRecord, maximized
from hf_fsl.core.records import ModelRecord, SeedRecord
from hf_fsl.data.encoding import EncodedSplit
from hf_fsl.data.loading import Splits
from hf_fsl.metrics.intervals import compute_metrics
from hf_fsl.metrics.measure import measure
from hf_fsl.models.adapters.attach import ParameterCount, attach_adapter, count_parameters, describe_adapter
from hf_fsl.models.backbones.cards import model_license
from hf_fsl.models.backbones.classification import load_classifier
from hf_fsl.models.backbones.texts import longest_input, truncation, warn_of_cut
from hf_fsl.training.checkpoints import training_identity
from hf_fsl.training.fine_tune_record import SeedOutcome
from hf_fsl.training.gradient_init import find_start
from hf_fsl.training.loop import training_loop
from hf_fsl.training.losses import ClassificationLoss, class_weights
from hf_fsl.training.prediction import predict_logits


@dataclass(frozen=True)
class FineTuned:
    """A trained seed: the adapted model (adapter not merged), its processor, and what was measured.

    ``base_commit`` is that of the backbone's repository, None for a folder.
    """

    model: nn.Module
    processor: Any
    base_commit: str | None
    architecture: str
    count: ParameterCount
    outcome: SeedOutcome
    truncation: TruncationRecord | None = None

    def validation_score(self, metric: str) -> float:
        """The validation metric the published seed is chosen by, higher is better."""
        return maximized(metric, self.outcome.record.validation[metric])


def fine_tune_seed(
    config: FineTuneConfig,
    splits: Splits,
    accelerator: Accelerator,
    seed: int,
    log: Callable[[dict[str, float], int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> FineTuned:
    """Loads the backbone, attaches the adapter, trains, and measures on test.

    Every process of the launch must call it; all return the same numbers.

    Args:
        log, say: see :func:`hf_fsl.training.training_loop`.

    Raises:
        BackboneError, AdapterError, CheckpointError: see the modules they come from.
    """
    config = config.resolved()
    task, training = splits.task, config.training
    set_seed(seed)
    classifier = load_classifier(config.model, task)
    model = attach_adapter(classifier.model, config.adapter, classifier.head)
    count = count_parameters(model)
    limit = longest_input(classifier.model, classifier.processor, config.model.max_length)
    if limit is not None:
        classifier.processor.model_max_length = limit
    encoded = [
        EncodedSplit(split, task, classifier.processor, limit, classifier.model.dtype)
        for split in (splits.train, splits.validation, splits.test)
    ]
    train_split, validation_split, test_split = encoded
    cut = None
    if task.modality != "image":
        columns = [[text for split in (splits.train, splits.validation, splits.test) for text in split[column]]
                   for column in task.input_columns]  # fmt: skip
        cut = truncation(
            classifier.processor, columns, [length for split in encoded for length in split.lengths or ()], limit
        )
        warn_of_cut(cut)
    labels = [split.labels for split in encoded]
    assert labels[0] is not None and labels[1] is not None and labels[2] is not None
    weights = class_weights(labels[0], len(task.label_names), training.class_weights)
    validation_labels, test_labels = labels[1].numpy(), labels[2].numpy()
    names = [*config.evaluation.metrics_of(task.multi_label), "loss"]
    # A metric that cannot be had is found out now, not after an epoch.
    every_class = np.eye(len(task.label_names))
    trusts = config.evaluation.trust_remote_code
    one_each = every_class if task.multi_label else every_class.argmax(-1)
    compute_metrics(names, every_class, one_each, task.multi_label, trusts)

    def evaluate(current: nn.Module) -> dict[str, float]:
        logits = predict_logits(
            current, validation_split, accelerator, training.per_device_eval_batch_size, "validation"
        )
        return compute_metrics(names, logits, validation_labels, task.multi_label, trusts)

    loss = ClassificationLoss(task.multi_label, weights, training.label_smoothing_factor)
    if config.adapter.initialization == "gradient":
        model.to(accelerator.device)
        find_start(model, train_split, loss, classifier.new_head).apply(model)
    progress = training_loop(
        model,
        train_split,
        training,
        accelerator,
        loss,
        seed=seed,
        folder=Path(config.output_dir) / "checkpoints" / f"seed-{seed}",
        head=classifier.head,
        evaluate=None if training.eval_strategy == "no" else evaluate,
        identity=_identity(config, splits.record.revision, classifier.commit),
        log=log,
        say=say,
    )
    validation = progress.evaluation or evaluate(model)
    logits = predict_logits(model, test_split, accelerator, training.per_device_eval_batch_size, "test")
    record = SeedRecord(
        seed=seed,
        steps=progress.step,
        best_step=progress.best_step,
        wall_seconds=progress.wall_seconds,
        validation=validation,
        test=measure(logits, test_labels, task, config.evaluation),
    )
    architecture = type(classifier.model).__name__
    outcome = SeedOutcome(record, logits)
    return FineTuned(model, classifier.processor, classifier.commit, architecture, count, outcome, cut)


def model_record(config: FineTuneConfig, trained: FineTuned) -> ModelRecord:
    """What is known of the backbone and of the adapter it was given."""
    return ModelRecord(
        base_model=config.model.model_name_or_path,
        base_revision=trained.base_commit,
        base_license=model_license(config.model.model_name_or_path),
        architecture=trained.architecture,
        adapter={**to_dict(config.adapter), "peft": describe_adapter(trained.model)},
        total_parameters=trained.count.total,
        trainable_parameters=trained.count.trainable,
        truncation=trained.truncation,
    )


def _identity(config: FineTuneConfig, data_commit: str | None, base_commit: str | None) -> dict[str, Any]:
    """What a checkpoint must have in common with the run that goes on from it.

    A branch may have moved between the two: the commits are what was loaded.
    """
    return {
        "data": {**to_dict(config.data), "commit": data_commit},
        "model": {**to_dict(config.model), "commit": base_commit},
        "adapter": to_dict(config.adapter),
        "training": training_identity(config.training),
    }
