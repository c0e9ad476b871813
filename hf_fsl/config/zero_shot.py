"""The configuration of the zero-shot recipes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from hf_fsl.config.sections import DDP_TIMEOUT, DataConfig, EvaluationConfig, HubConfig, ModelConfig, _at_least
from hf_fsl.core.placeholders import has_one_place


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig:
    """How labels are put into words, and what is tuned on which classes."""

    templates: list[str] = field(default_factory=lambda: ["This example is {}."])
    """Each is tried alone and all together; validation chooses."""
    label_texts: dict[str, str] = field(default_factory=dict)
    """Class name -> the words that stand for it in the templates; else its name, ``card_payment`` and ``CardPayment``
    as two words."""
    validation_labels: list[str] = field(default_factory=list)
    """Classes on which templates and calibration are chosen; the test is on the others. Empty: on all, both times."""
    shots: list[int] = field(default_factory=list)
    """Also measure, on the same test, what so many labeled examples a class would give."""
    calibration_samples: int = 200
    """Unlabeled training texts (or images) from which the label prior is estimated; 0: no calibration."""
    batch_tokens: int | None = None
    """Tokens a batch, padding included; ``null``: what suits the device."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        if not self.templates:
            yield "templates: at least one, such as 'This is about {}.'"
        for template in self.templates:
            if not has_one_place(template):
                yield f"templates: each has one place {{}} for the label, got {template!r}"
        if any(k < 1 for k in self.shots):
            yield f"shots: numbers of 1 or more, got {self.shots}"
        if self.calibration_samples < 0:
            yield f"calibration_samples: at least 0, got {self.calibration_samples}"
        if len(self.validation_labels) == 1:
            yield "validation_labels: two classes or more, or none"


@dataclass(frozen=True, kw_only=True)
class ZeroShotNLIConfig:
    """Everything ``recipes/zero_shot_nli.py`` is told."""

    data: DataConfig
    model: ModelConfig
    """The NLI model."""
    bi_encoder: ModelConfig | None = None
    """Compared on the same texts; ``null``: no comparison."""
    zero_shot: ZeroShotConfig = ZeroShotConfig()
    evaluation: EvaluationConfig = EvaluationConfig(baselines=[])
    hub: HubConfig = HubConfig()
    recipe: Literal["zero_shot_nli"] = "zero_shot_nli"
    output_dir: str = "outputs/zero_shot_nli"
    ddp_timeout: float = DDP_TIMEOUT
    """Seconds for which the processes of a launch wait for each other."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        yield from _at_least(self, 1, "ddp_timeout")
        yield from self.model.no_prompt()
        if self.bi_encoder is not None:
            yield from self.bi_encoder.no_prompt("bi_encoder")
        single = self.data.problem_type == "single_label_classification"
        if self.zero_shot.shots and self.bi_encoder is None:
            yield "zero_shot.shots: needs bi_encoder, whose embeddings the labeled examples are compared by"
        if self.data.text_column is None or self.data.text_pair_column is not None or not single:
            yield "data: single texts (text_column alone) with one label each"


@dataclass(frozen=True, kw_only=True)
class ZeroShotClipConfig:
    """Everything ``recipes/zero_shot_clip.py`` is told."""

    data: DataConfig
    model: ModelConfig
    """A CLIP, SigLIP or vision-text dual encoder."""
    zero_shot: ZeroShotConfig = ZeroShotConfig(templates=["This is a photo of {}."])
    evaluation: EvaluationConfig = EvaluationConfig(baselines=[])
    hub: HubConfig = HubConfig()
    recipe: Literal["zero_shot_clip"] = "zero_shot_clip"
    output_dir: str = "outputs/zero_shot_clip"
    ddp_timeout: float = DDP_TIMEOUT
    """Seconds for which the processes of a launch wait for each other."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        yield from _at_least(self, 1, "ddp_timeout")
        yield from self.model.no_prompt()
        if self.data.image_column is None or self.data.problem_type != "single_label_classification":
            yield "data: images (image_column) with one label each"
