"""Contrastive training: towers trained on pairs, chosen on validation, measured once on what was never seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from hf_fsl.config.contrastive import ContrastiveConfig
from hf_fsl.config.loading import to_dict
from hf_fsl.config.sections import TrainingConfig
from hf_fsl.contrastive.evaluation import ZeroShotSplit, measurements, quick_metrics
from hf_fsl.contrastive.inputs import (
    EncodedPairs,
    TextFeatures,
    distinct_captions,
    encoded_pictures,
    image_outputs,
)
from hf_fsl.contrastive.losses import ContrastiveLoss, true_pairs
from hf_fsl.contrastive.towers import LARGEST_SCALE, Embedded, LoadedTowers, load_towers
from hf_fsl.core.errors import UserError
from hf_fsl.core.records import TowerRecord, ZeroShotMeasurement
from hf_fsl.data.pairs import Pairs
from hf_fsl.models.adapters.attach import ParameterCount, count_parameters, describe_adapter
from hf_fsl.models.backbones.cards import model_license
from hf_fsl.models.backbones.classification import loaded_commit
from hf_fsl.training.checkpoints import training_identity
from hf_fsl.training.loop import Progress, training_loop
from hf_fsl.training.update import Batch, Step, cut


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
        config: what is trained, and how.
        pairs: the data.
        accelerator: of the launch.
        log, say: see :func:`hf_fsl.training.training_loop`.

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

    progress = training_loop(
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


BOOKKEEPING = ("index", "text", "captions")
"""What a batch holds beside the model's inputs."""


class ContrastiveUpdate(Step):
    """The batches of a group, on all processes, are one batch of the loss (gradient caching, Gao et al. 2021).

    Each batch is embedded without a graph; the loss of all embeddings gives the gradient of each; then batch after
    batch is embedded again, with the same dropout, and that gradient sent back through it. Memory is that of one
    batch, the result that of one large batch. A group of one batch is embedded once.
    """

    def __init__(
        self, model: nn.Module, optimizer: Any, loss: ContrastiveLoss, accelerator: Accelerator, config: TrainingConfig
    ) -> None:
        super().__init__(model, optimizer, accelerator, config)
        self.loss = loss
        whole: Any = accelerator.unwrap_model(model)
        self.scale = whole.model.logit_scale

    def __call__(self, group: Sequence[Batch]) -> tuple[Tensor, Tensor | None, int]:
        result = super().__call__(group)
        if self.loss.name == "clip":
            with torch.no_grad():
                self.scale.clamp_(max=LARGEST_SCALE)
        return result

    def backward(self, group: Sequence[Batch]) -> Tensor:
        chunks = [piece for batch in group for piece in cut(batch, self.pieces)]
        inputs = [{name: value for name, value in chunk.items() if name not in BOOKKEEPING} for chunk in chunks]
        states: list[tuple[Tensor, Tensor | None]] = []
        embedded: list[Embedded] = []
        with torch.no_grad() if len(chunks) > 1 else nullcontext():
            for chunk in inputs:
                states.append(self._random_state())
                embedded.append(self.model(**chunk))
        after = self._random_state()
        value, image_gradients, text_gradients, scale_gradient, bias_gradient = self._gradients(embedded, chunks)
        for number, chunk in enumerate(inputs):
            last = number == len(inputs) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                if len(inputs) > 1:
                    self._set_random_state(states[number])
                    out = self.model(**chunk)
                else:
                    out = embedded[0]
                carried = (out.images.float() * image_gradients[number]).sum()
                carried = carried + (out.texts.float() * text_gradients[number]).sum()
                if last:
                    carried = carried + out.scale * scale_gradient
                    if out.bias is not None:
                        carried = carried + out.bias * bias_gradient
                self.accelerator.backward(carried)
        self._set_random_state(after)
        return value

    def _gradients(
        self, embedded: Sequence[Embedded], chunks: Sequence[Batch]
    ) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor], Tensor, Tensor | float]:
        """The loss over all processes, and its gradient by each chunk's images and texts, by scale and by bias."""
        sizes = [len(chunk["text"]) for chunk in chunks]
        own = sum(sizes)
        gather: Any = self.accelerator.gather
        images = gather(torch.cat([one.images.detach().float() for one in embedded])).requires_grad_()
        texts = gather(torch.cat([one.texts.detach().float() for one in embedded])).requires_grad_()
        if len(images) < 2:
            raise UserError(
                "A contrastive batch needs at least 2 pairs, or a picture has no other caption to be told from; this "
                "one has 1. Choose training.per_device_train_batch_size so that no single example is left over at "
                "the end of an epoch."
            )
        positives = true_pairs(
            gather(torch.cat([chunk["captions"] for chunk in chunks])),
            gather(torch.cat([chunk["text"] for chunk in chunks])),
        )
        scale = embedded[0].scale.detach().float().requires_grad_()
        bias = embedded[0].bias.detach().float().requires_grad_() if embedded[0].bias is not None else None
        with torch.enable_grad():
            value = self.loss(images, texts, scale, bias, positives)
        wanted = [images, texts, scale] + ([bias] if bias is not None and self.loss.name == "siglip" else [])
        gradients = torch.autograd.grad(value, wanted)
        # Of its own embeddings each process knows the whole gradient; what averages over processes would divide it.
        start, processes = own * self.accelerator.process_index, self.accelerator.num_processes
        mine = [(gradient[start : start + own] * processes).split(sizes) for gradient in gradients[:2]]
        return value.detach(), mine[0], mine[1], gradients[2], gradients[3] if len(gradients) > 3 else 0.0

    def _random_state(self) -> tuple[Tensor, Tensor | None]:
        cuda = self.accelerator.device.type == "cuda"
        return torch.get_rng_state(), torch.cuda.get_rng_state(self.accelerator.device) if cuda else None

    def _set_random_state(self, state: tuple[Tensor, Tensor | None]) -> None:
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], self.accelerator.device)
