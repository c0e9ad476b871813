"""From a trained dual encoder to its record, and to the sample that its bundle is verified with."""

from __future__ import annotations

from datetime import UTC, datetime

from accelerate import Accelerator

from hf_fsl.config.contrastive import ContrastiveConfig
from hf_fsl.config.loading import to_dict
from hf_fsl.contrastive.inputs import TextFeatures, encoded_pictures, image_outputs
from hf_fsl.contrastive.training import TrainedTowers
from hf_fsl.core import environment
from hf_fsl.core.paths import portable
from hf_fsl.core.records import ContrastiveRecord
from hf_fsl.data.pairs import Pairs, PairSplit
from hf_fsl.hub.verify import DualEncoderSample
from hf_fsl.metrics.measure import measured_cost


def build_contrastive_record(
    config: ContrastiveConfig, command: str, pairs: Pairs, trained: TrainedTowers, wall_seconds: float, processes: int
) -> ContrastiveRecord:
    """Everything a run was given, did and measured."""
    return ContrastiveRecord(
        command=command,
        config=to_dict(config) | {"output_dir": portable(config.output_dir)},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data=pairs.record,
        architecture=type(trained.towers.encoder.model).__name__,
        image=trained.image,
        text=trained.text,
        steps=trained.progress.step,
        best_step=trained.progress.best_step,
        training_seconds=trained.progress.wall_seconds,
        validation=trained.validation,
        tests=trained.tests,
        temperature=1 / float(trained.towers.encoder.model.logit_scale.detach().exp()),
        candidate_labels=candidate_labels(pairs.tests["test"]),
        cost=measured_cost(wall_seconds, processes),
        environment=environment.versions(),
    )


def candidate_labels(split: PairSplit) -> list[str]:
    """What a picture of the split may be: its classes, without them its first texts."""
    return split.classes or list(dict.fromkeys(split.retrieval))[:6]


def verification_sample(
    config: ContrastiveConfig, split: PairSplit, trained: TrainedTowers, accelerator: Accelerator, count: int
) -> DualEncoderSample:
    """The first ``count`` pictures of a split and its candidate labels, with the trained model's embeddings.

    Every process must call it, before adapters are merged.
    """
    towers, encoder = trained.towers, trained.towers.encoder
    images = split.images.select(range(min(count, len(split))))
    few = PairSplit(split.name, images, split.captions, split.retrieval, split.labels, split.classes)
    labels, template = candidate_labels(split), config.data.label_templates[0]
    embeddings = image_outputs(encoder, encoded_pictures(few, towers), accelerator, count)
    texts = TextFeatures(encoder, towers).embeddings([template.format(label) for label in labels])
    return DualEncoderSample(list(images["image"]), labels, template, embeddings.numpy(), texts.numpy())
