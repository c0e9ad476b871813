"""The configuration of ``recipes/train_contrastive.py``: pairs of pictures and captions, two towers, one loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from hf_fsl.config.sections import DDP_TIMEOUT, HubConfig, TrainingConfig, _at_least, _between
from hf_fsl.core.placeholders import has_one_place, plain_places


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Which pictures, and what is said of them.

    Captions are templates over columns, ``"an emoji of {name}"``. A column of lists gives a caption for each element.
    In a class label's name, hyphens and underscores are read as spaces (``food-fruit``: "food fruit").
    """

    path: str
    """Hub id (``user/name``), or a local folder or file."""
    name: str | None = None
    """Configuration of the data set, where it has several."""
    revision: str | None = None
    data_files: dict[str, str] | None = None
    """Split -> file or glob, for data that does not say it by itself."""
    image_column: str = "image"
    captions: list[str]
    """One of them is drawn for a picture each time it is seen in training."""
    retrieval_caption: str | None = None
    """By which pictures are found again in evaluation; ``null``: the first of ``captions``."""
    class_column: str | None = None
    """Column of a class label that zero-shot classification is measured by; ``null``: retrieval alone."""
    label_templates: list[str] = field(default_factory=lambda: ["This is a photo of {}."])
    """What is said of a class; of several the mean embedding is taken. One gives what stock pipelines give."""
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str = "test"
    shifts: dict[str, str] = field(default_factory=dict)
    """Name -> configuration of the data set whose test split is measured as well, such as another style."""
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    """The first examples, for smoke runs; applies to validation and to every test split."""
    on_overlap: Literal["error", "drop_train", "ignore"] = "error"
    """What to do with a picture that occurs in two of train, validation and test."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        if not self.captions:
            yield 'captions: at least one template over the columns, such as "{caption}"'
        for name, templates in (("captions", self.captions), ("retrieval_caption", [self.retrieval_caption])):
            for template in templates:
                if template is not None and not caption_columns(template):
                    yield f"{name}: {template!r} names no column; write one in braces, such as {{caption}}"
        if not self.label_templates:
            yield "label_templates: at least one, such as 'a photo of {}'"
        for template in self.label_templates:
            if not has_one_place(template):
                yield f"label_templates: one place {{}} for the class, got {template!r}"
        if "test" in self.shifts:
            yield "shifts: 'test' is what the test split itself is called; choose another name"
        yield from _at_least(self, 2, "max_train_samples", "max_eval_samples")


def caption_columns(template: str) -> list[str]:
    """The columns in a caption template; none for one that cannot be read, or whose places are not plain names."""
    places = plain_places(template) or []
    return places if all(places) else []


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """One encoder, and how it is trained."""

    model_name_or_path: str | None = None
    """``null``: this tower of ``model.model_name_or_path``."""
    revision: str | None = None
    from_config: bool = False
    """Random weights in the shape that the repository's ``config.json`` describes: training from scratch."""
    method: Literal["frozen", "full", "lora"] = "lora"
    """A frozen tower is computed once."""
    r: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    target_modules: list[str] | str | None = None
    """As in PEFT; ``null``: every linear layer of the tower."""
    pooling: Literal["pooler", "mean"] = "pooler"
    """``mean``, for BERT and RoBERTa text towers: the mean over tokens of sentence-transformers, as a layer."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        yield from _at_least(self, 1, "r")
        yield from _between(self, 0.0, 1.0, "lora_dropout")
        if self.from_config and self.method != "full":
            yield f"method: a tower of random weights is trained in full, got {self.method}"


@dataclass(frozen=True, kw_only=True)
class DualEncoderConfig:
    """A whole dual encoder (CLIP, SigLIP, VisionTextDualEncoder), or two towers put together."""

    model_name_or_path: str | None = None
    """Hub id or folder of a whole one; ``null``: ``image`` and ``text`` name their own."""
    revision: str | None = None
    image: TowerConfig = TowerConfig()
    text: TowerConfig = TowerConfig()
    projection_dim: int = 512
    """Of two towers put together."""
    text_projection: Literal["trained", "identity", "centered"] = "trained"
    """Of two towers; ``identity``: pictures are mapped into the text tower's own space; ``centered``: into that space
    without what all training captions have in common (needs a frozen text tower)."""
    max_length: int | None = None
    """Tokens a text may have (longer ones are cut); ``null``: the text tower's own limit."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        named = [self.image.model_name_or_path, self.text.model_name_or_path]
        if (self.model_name_or_path is None) != all(named) or (self.model_name_or_path is not None and any(named)):
            yield (
                "model_name_or_path, or image.model_name_or_path and text.model_name_or_path: name a whole dual "
                "encoder, or both of its towers"
            )
        if self.model_name_or_path is not None:
            for tower, section in (("image", self.image), ("text", self.text)):
                if section.from_config or section.pooling != "pooler" or section.revision is not None:
                    yield f"{tower}: from_config, pooling and revision are for towers named on their own"
            if self.text_projection != "trained":
                yield "text_projection: of a whole dual encoder it is the model's own; leave it out"
        if self.text_projection == "centered" and self.text.method != "frozen":
            yield f"text_projection: centered needs text.method: frozen, got {self.text.method}"
        if self.image.pooling != "pooler":
            yield "image.pooling: pooler; the mean is for text towers"
        yield from _at_least(self, 2, "projection_dim")
        yield from _at_least(self, 4, "max_length")


@dataclass(frozen=True, kw_only=True)
class ContrastiveLossConfig:
    """What is minimised over a batch, that is over all processes and accumulated batches together."""

    name: Literal["clip", "siglip"] = "clip"
    """``clip``: symmetric cross-entropy (Radford et al. 2021); ``siglip``: pairwise sigmoid (Zhai et al. 2023)."""
    temperature: float | None = None
    """To start from; ``null``: the model's own (CLIP's 0.07 for two towers put together)."""
    bias: float | None = None
    """To start from, for siglip; ``null``: the model's own, else SigLIP's -10."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        if self.temperature is not None and self.temperature <= 0:
            yield f"temperature: above 0, got {self.temperature}"
        if self.bias is not None and self.name != "siglip":
            yield "bias: belongs to name: siglip"


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Random changes of training pictures; the defaults change nothing. Drawn anew each time a picture is seen."""

    shift: float = 0.0
    """Up to this share of width and height."""
    scale: float = 0.0
    """Smaller or larger by up to this share."""
    rotation: float = 0.0
    """Degrees, to either side."""
    flip: float = 0.0
    """Share mirrored left to right. Harmless only where no caption says left or right."""
    flip_unless: list[str] = field(default_factory=list)
    """Words: a picture whose captions have one of them is never mirrored, such as left, right, clock."""
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Turns of the colour circle, to either side: 0.5 is any colour."""
    grayscale: float = 0.0
    """Share shown without colour."""

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return any(value for name, value in vars(self).items() if name != "flip_unless")

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        yield from _between(self, 0.0, 1.0, "shift", "scale", "brightness", "contrast", "saturation")
        for name, most in (("flip", 1.0), ("grayscale", 1.0), ("hue", 0.5), ("rotation", 180.0)):
            if not 0 <= getattr(self, name) <= most:
                yield f"{name}: from 0 to {most}, got {getattr(self, name)}"


@dataclass(frozen=True, kw_only=True)
class ContrastiveEvaluationConfig:
    """How the intervals of what is measured on test are made."""

    bootstrap_resamples: int = 2000

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        yield from _at_least(self, 100, "bootstrap_resamples")


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Everything ``recipes/train_contrastive.py`` is told."""

    data: PairsConfig
    model: DualEncoderConfig
    loss: ContrastiveLossConfig = ContrastiveLossConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    training: TrainingConfig = TrainingConfig()
    """``gradient_accumulation_steps`` batches are one batch of the loss, its gradients cached (Gao et al. 2021)."""
    evaluation: ContrastiveEvaluationConfig = ContrastiveEvaluationConfig()
    hub: HubConfig = HubConfig()
    recipe: Literal["train_contrastive"] = "train_contrastive"
    output_dir: str = "outputs/train_contrastive"
    ddp_timeout: float = DDP_TIMEOUT
    """Seconds for which the processes of a launch wait for each other."""

    def resolved(self) -> ContrastiveConfig:
        """With what its ``null`` stand for: as it is printed, recorded and run."""
        in_full = any(
            tower.method == "full" and not tower.from_config for tower in (self.model.image, self.model.text)
        )
        return replace(self, training=self.training.resolved(in_full))

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        yield from _at_least(self, 1, "ddp_timeout")
        training = self.training
        known = ["accuracy"] * (self.data.class_column is not None) + ["retrieval_at_1", "retrieval_at_5", "loss"]
        if training.metric_for_best_model not in known:
            yield f"training.metric_for_best_model: one of {known}, got {training.metric_for_best_model!r}"
        if training.per_device_train_batch_size * training.gradient_accumulation_steps < 2:
            yield (
                "training.per_device_train_batch_size x gradient_accumulation_steps: at least 2, or a picture has no "
                "other caption to be told from"
            )
        if len(training.seeds) > 1:
            yield f"training.seeds: one seed a run here, got {training.seeds}"
        for name in ("label_smoothing_factor", "class_weights"):
            if getattr(training, name):
                yield f"training.{name}: there are no classes in training; leave it out"
        if training.loss != "cross_entropy":
            yield f"training.loss: {training.loss} is of classes, and there are none in training; leave it out"
        if training.train_sampling_strategy != "random":
            yield "training.train_sampling_strategy: random; which pairs are compared must not depend on their length"
        if self.model.image.method == "frozen" and self.augmentation.active:
            yield "augmentation: a frozen image tower is computed once, its pictures never change; leave it out"
