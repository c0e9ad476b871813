"""One run: towers loaded, trained on pairs, chosen on validation, measured once on what was never seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from hf_fsl.config.contrastive import ContrastiveConfig
from hf_fsl.config.loading import to_dict
from hf_fsl.contrastive.evaluation import ZeroShotSplit, measurements, quick_metrics
from hf_fsl.contrastive.inputs import (
    EncodedPairs,
    TextFeatures,
    distinct_captions,
    encoded_pictures,
    image_outputs,
)
from hf_fsl.contrastive.losses import ContrastiveLoss
from hf_fsl.contrastive.towers import LoadedTowers, load_towers
from hf_fsl.contrastive.update import ContrastiveUpdate
from hf_fsl.core.records import TowerRecord, ZeroShotMeasurement
from hf_fsl.data.pairs import Pairs
from hf_fsl.models.adapters.attach import ParameterCount, count_parameters, describe_adapter
from hf_fsl.models.backbones.cards import model_license
from hf_fsl.models.backbones.classification import loaded_commit
from hf_fsl.training.checkpoints import training_identity
from hf_fsl.training.loop import Progress, train


@dataclass(frozen=True)
class TrainedTowers:
    """A trained dual encoder (adapters not merged) and what was measured."""

    towers: LoadedTowers
    count: ParameterCount
    image: TowerRecord
    text: TowerRecord
    progress: Progress
    validation: dict[str, float]
    tests: dict[str, dict[str, ZeroShotMeasurement]]


def train_towers(
    config: ContrastiveConfig,
    pairs: Pairs,
    accelerator: Accelerator,
    log: Callable[[dict[str, float], int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> TrainedTowers:
    """Trains, and measures on every test split once.

    Every process of the launch must call it; all return the same numbers.

    Args:
        log, say: see :func:`hf_fsl.training.train`.

    Raises:
        BackboneError, AdapterError, CheckpointError: see the modules they come from.
    """
    config = config.resolved()
    training, templates = config.training, config.data.label_templates
    (seed,) = training.seeds
    set_seed(seed)
    towers = load_towers(config.model, config.loss)
    encoder = towers.encoder.to(accelerator.device)
    count = count_parameters(encoder)
    image, text = (tower_record(config, towers, name) for name in ("image", "text"))
    texts, size = TextFeatures(encoder, towers), training.per_device_eval_batch_size
    text_features = texts(distinct_captions(pairs.train)) if "text" in encoder.frozen else None
    if text_features is not None and config.model.text_projection == "centered":
        encoder.center_texts(text_features)
    image_features = None
    if "image" in encoder.frozen:
        pictures = encoded_pictures(pairs.train, towers)
        image_features = image_outputs(encoder, pictures, accelerator, size, features=True)
    split = EncodedPairs(pairs.train, towers, config.augmentation, seed, text_features, image_features)
    validation = ZeroShotSplit(pairs.validation, towers, templates)

    def evaluate(_: nn.Module) -> dict[str, float]:
        return quick_metrics(validation.scores(encoder, texts, accelerator, size))

    loss = ContrastiveLoss(config.loss.name)

    def make_update(model: nn.Module, optimizer: Any) -> ContrastiveUpdate:
        return ContrastiveUpdate(model, optimizer, loss, accelerator, training)

    progress = train(
        encoder,
        split,
        training,
        accelerator,
        make_update,
        seed=seed,
        folder=Path(config.output_dir) / "checkpoints" / f"seed-{seed}",
        head=["visual_projection", "text_projection"],
        evaluate=None if training.eval_strategy == "no" else evaluate,
        identity=_identity(config, pairs.record.revision, (image, text)),
        log=log,
        say=say,
    )
    tests = {
        name: measurements(
            ZeroShotSplit(one, towers, templates).scores(encoder, texts, accelerator, size),
            config.evaluation.bootstrap_resamples,
        )
        for name, one in pairs.tests.items()
    }
    return TrainedTowers(towers, count, image, text, progress, evaluate(encoder), tests)


def tower_record(config: ContrastiveConfig, towers: LoadedTowers, name: str) -> TowerRecord:
    """Where a tower came from and how it is trained."""
    section, tower = getattr(config.model, name), getattr(towers.encoder, f"{name}_tower")
    count = count_parameters(tower)
    plain = tower.get_base_model() if hasattr(tower, "peft_config") else tower
    source = section.model_name_or_path or str(config.model.model_name_or_path)
    return TowerRecord(
        source=source,
        revision=loaded_commit(source, section.revision or config.model.revision),
        license=model_license(source),
        architecture=type(plain).__name__,
        method="trained from random weights" if section.from_config else section.method,
        total_parameters=count.total,
        trainable_parameters=count.trainable,
        adapter=describe_adapter(tower),
    )


def _identity(config: ContrastiveConfig, data_commit: str | None, towers: Sequence[TowerRecord]) -> dict[str, Any]:
    """What a checkpoint must have in common with the run that goes on from it."""
    return {
        "data": {**to_dict(config.data), "commit": data_commit},
        "model": {**to_dict(config.model), "commits": [tower.revision for tower in towers]},
        "loss": to_dict(config.loss),
        "augmentation": to_dict(config.augmentation),
        "training": training_identity(config.training),
    }
