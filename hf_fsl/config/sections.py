"""The configuration of every recipe, as frozen dataclasses. Nothing here loads torch.

Field names follow ``transformers.TrainingArguments`` and the PEFT config classes where the meaning is the same.
``problems()`` of a section lists what the types alone cannot rule out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

Loss = Literal["cross_entropy", "supervised_contrastive", "prototypical"]

_ONLY_ENCODERS = ("dinov3", "vit-mae")
"""Families of image encoders without a classification class in transformers."""

DDP_TIMEOUT = 6 * 3600.0
"""Long: one process evaluates, searches or publishes while the others wait, and a dead one ends the launch anyway."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set, at which revision, read through which columns, split how."""

    path: str
    """Hub id (``user/name``), or a local folder or file (csv, json, jsonl, parquet, a folder of images)."""
    name: str | None = None
    """Configuration of the data set, where it has several."""
    revision: str | None = None
    data_files: dict[str, str] | None = None
    """Split -> file or glob, for data that does not say it by itself."""
    text_column: str | None = None
    text_pair_column: str | None = None
    image_column: str | None = None
    label_column: list[str] | str = "label"
    """Several columns: one a class, 0 or 1 in each (``multi_label_classification``)."""
    label_separator: str | None = None
    """What stands between the labels of a text column, such as a comma (``multi_label_classification``)."""
    item_column: str | None = None
    """What is shown, where several examples can show the same (one emoji in two styles): episodes keep them apart."""
    label_names: list[str] | None = None
    """Names of integer labels 0, 1, … in a column without names; named labels are put in this order, or narrowed."""
    drop_unlabeled: bool = False
    """Leave out examples whose label is missing: an empty cell, null, NaN, or the -1 of a ClassLabel column (SNLI).
    Otherwise they are an error. The words NA, None and null are labels."""
    problem_type: Literal["single_label_classification", "multi_label_classification"] = "single_label_classification"
    train_split: str = "train"
    validation_split: str | None = "validation"
    """``null``: a stratified ``validation_fraction`` of the training split is set aside. So it is where the training
    split is the only one, unless another name is given here."""
    test_split: str | None = "test"
    """``null``: a stratified ``test_fraction`` of the training split is set aside, likewise."""
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    """Stratified subsets, for smoke runs; applies to validation and to test."""
    min_examples_per_class: int = 2
    """A class with fewer training examples is an error."""
    on_overlap: Literal["error", "drop_train", "ignore"] = "error"
    """What to do with an example that occurs in two splits."""
    on_empty: Literal["error", "skip"] = "error"
    """What to do with an example whose text, or one of the two, is empty."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        if (self.text_column is None) == (self.image_column is None):
            yield "text_column or image_column: name exactly one of them, the input of the task"
        if self.text_pair_column is not None and self.text_column is None:
            yield "text_pair_column: needs text_column, the first text of the pair"
        several = isinstance(self.label_column, list)
        if self.problem_type == "single_label_classification":
            if several:
                yield "label_column: several columns are for problem_type multi_label_classification; name one"
            if self.label_separator is not None:
                yield "label_separator: is for problem_type multi_label_classification; leave it out"
        if several and (len(self.label_column) < 2 or len(set(self.label_column)) < len(self.label_column)):
            yield f"label_column: one name, or a list of two or more, each once; got {self.label_column}"
        if self.label_separator is not None and several:
            yield f"label_separator: splits the texts of one label_column, got {self.label_column}"
        if self.label_separator == "":
            yield "label_separator: a character or more, or null"
        yield from _between(self, 0.0, 1.0, "validation_fraction", "test_fraction")
        if self.validation_fraction + self.test_fraction >= 1:
            yield "validation_fraction + test_fraction: together below 1, or nothing is left for training"
        yield from _at_least(self, 1, "max_train_samples", "max_eval_samples", "min_examples_per_class")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which backbone from the Hub."""

    model_name_or_path: str
    revision: str | None = None
    trust_remote_code: bool = False
    max_length: int | None = None
    """Tokens a text may have (longer ones are cut); ``null``: the backbone's own limit."""
    prompt: str | None = None
    """Put before every text, for encoders that were trained with one; ``""`` for none. ``null``: what ``prompt_name``
    says, else the repository's default prompt, or the one that it names for classification. Of recipe few_shot."""
    prompt_name: str | None = None
    """One of the prompts that the repository names."""
    from_config: bool = False
    """Random weights in the shape that the repository's ``config.json`` describes: training from scratch."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attn_implementation: str | None = None

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        yield from _at_least(self, 4, "max_length")
        if self.prompt is not None and self.prompt_name is not None:
            yield "prompt, prompt_name: one of the two"

    def no_prompt(self, section: str = "model") -> Iterator[str]:
        """What recipes say that put no prompt before texts, or the repository's own only."""
        for name in ("prompt", "prompt_name"):
            if getattr(self, name) is not None:
                yield f"{section}.{name}: of recipe few_shot, whose encoder takes one; leave it out"

    def no_stock_classifier(self) -> Iterator[str]:
        """What a recipe that trains a stock classification class says of families known to have none."""
        family = next((known for known in _ONLY_ENCODERS if known in self._family()), None)
        if family is not None:
            yield (
                f"model.model_name_or_path: transformers has no classification class for {family} "
                f"({self.model_name_or_path}). The recipe few_shot trains an adapter on it and publishes a class of "
                "hf_fsl"
            )

    def _family(self) -> str:
        """The model type of a folder; of a repository its name, which has the family in it."""
        try:
            with (Path(self.model_name_or_path) / "config.json").open(encoding="utf-8") as file:
                family = str(json.load(file).get("model_type"))
        except (OSError, ValueError, AttributeError):
            family = self.model_name_or_path.rpartition("/")[2]
        return family.lower().replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """How the backbone is adapted. Names as in PEFT; ``rank_pattern`` and ``alpha_pattern`` are per layer."""

    method: Literal["full", "head", "lora", "rslora", "dora", "ia3", "ln_tuning", "vera"] = "lora"
    """``full``: every parameter is trained; ``head``: the classification head alone."""
    r: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    initialization: Literal["random", "gradient"] = "random"
    """``gradient``, for few labels: A of a lora, rslora or dora starts along what the loss pulls at, and in
    ``fine_tune`` a new head as a logistic regression of frozen features. Small ranks learn more in fewer steps."""
    target_modules: list[str] | str | None = None
    """Module names, a regular expression, ``all-linear``, or ``null``: found from the module tree."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    layers_to_transform: list[int] | None = None
    modules_to_save: list[str] | None = None
    """Modules trained in full beside the adapter and the classification head, which always is."""
    peft_config: str | None = None
    """Folder or Hub id holding an ``adapter_config.json``, taken as it is instead of the fields above."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        yield from _at_least(self, 1, "r")
        yield from _between(self, 0.0, 1.0, "lora_dropout")
        for module, rank in self.rank_pattern.items():
            if rank < 1:
                yield f"rank_pattern.{module}: at least 1, got {rank}; leave a module out by target_modules"
        if isinstance(self.target_modules, str):
            yield from _no_pattern(self.target_modules, "target_modules")
        for name in ("rank_pattern", "alpha_pattern"):
            for pattern in getattr(self, name):
                yield from _no_pattern(pattern, f"{name}.{pattern}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The optimisation, its checkpoints and its trackers."""

    learning_rate: float | None = None
    """``null``: 5e-5 where pre-trained weights are trained in full, else (adapters, heads, random weights) 1e-3."""
    head_learning_rate: float | None = None
    """Of the classification head, where it should differ from the rest."""
    num_train_epochs: float = 3.0
    max_steps: int | None = None
    """Optimiser steps; overrides ``num_train_epochs``."""
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 64
    gradient_accumulation_steps: int = 1
    max_grad_norm: float | None = 1.0
    weight_decay: float = 0.0
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial"] = "linear"
    warmup_steps: float = 0.06
    """Below 1: a share of all steps; from 1: a number of steps."""
    loss: Loss = "cross_entropy"
    """``supervised_contrastive`` and ``prototypical`` are added to cross-entropy, on what the classification layer
    reads: examples of a class in the same batch are drawn together there."""
    metric_loss_weight: float = 0.5
    """Share of that loss in the sum; the rest is cross-entropy."""
    label_smoothing_factor: float = 0.0
    class_weights: Literal["balanced"] | list[float] | None = None
    train_sampling_strategy: Literal["random", "group_by_length"] = "random"
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "no"
    """``auto``: bf16 where the processor multiplies it natively, else float32. Weights stay as they are. On a CPU it
    pays with one thread; small models share bf16 products badly between threads."""
    gradient_checkpointing: bool = False
    auto_find_batch_size: bool = True
    """Halve the batch and double the accumulation when the memory does not suffice."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """One training run a seed; the one best on validation is published."""
    eval_strategy: Literal["epoch", "steps", "no"] = "epoch"
    eval_steps: int | None = None
    metric_for_best_model: str = "accuracy"
    load_best_model_at_end: bool = True
    early_stopping_patience: int | None = None
    """Evaluations without an improvement before training stops."""
    save_steps: int | None = None
    """A checkpoint every so many steps, beside the one at the end and the one that a signal asks for."""
    save_minutes: float | None = 5.0
    """A checkpoint also where the last one is so old; ``null``: none by time."""
    save_total_limit: int = 2
    resume_from_checkpoint: str | None = None
    """A checkpoint folder, or ``auto``: the newest one in ``output_dir`` if there is any. ``null``: training starts
    anew, and replaces the checkpoints there."""
    logging_steps: int = 10
    log_with: list[Literal["tensorboard", "trackio", "wandb"]] = field(default_factory=list)
    """Trackers beside ``metrics.jsonl``, which is always written."""
    dataloader_num_workers: int = 0

    def resolved(self, in_full: bool) -> TrainingConfig:
        """With the learning rate that it stands for.

        Args:
            in_full: whether pre-trained weights are trained themselves.
        """
        if self.learning_rate is not None:
            return self
        return replace(self, learning_rate=5e-5 if in_full else 1e-3)

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        for name in ("learning_rate", "head_learning_rate", "num_train_epochs", "max_grad_norm", "save_minutes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                yield f"{name}: above 0, got {value}"
        yield from _at_least(
            self, 1, "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size",
            "gradient_accumulation_steps", "eval_steps", "early_stopping_patience", "save_steps", "save_total_limit",
            "logging_steps",
        )  # fmt: skip
        yield from _at_least(self, 0, "weight_decay", "warmup_steps", "dataloader_num_workers")
        yield from _between(self, 0.0, 1.0, "label_smoothing_factor", "metric_loss_weight")
        weights = self.class_weights
        if isinstance(weights, list) and (min(weights, default=0) < 0 or not any(weights)):
            yield f"class_weights: each at least 0 and one above, or balanced; got {weights}"
        if not self.seeds:
            yield "seeds: at least one"
        if len(set(self.seeds)) < len(self.seeds):
            yield f"seeds: each once, got {self.seeds}"
        if self.eval_strategy == "steps" and self.eval_steps is None:
            yield "eval_steps: needed with eval_strategy: steps"
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            yield "early_stopping_patience: needs an eval_strategy other than no"


METRICS = ("accuracy", "macro_f1", "mcc", "ece", "loss")
"""What is computed here; any other metric is a script of somebody's."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured on validation and, once, on test."""

    metrics: list[str] | None = None
    """Ours by name (accuracy, macro_f1, mcc, ece); anything else goes to ``evaluate.load``. ``null``: all of ours,
    without mcc where an example has several labels, for which it is not defined."""
    trust_remote_code: bool = False
    """Whether ``evaluate`` may run the scripts of metrics that are not ours, from a folder or the Hub."""
    bootstrap_resamples: int = 2000
    baselines: list[Literal["majority", "linear_probe"]] = field(default_factory=lambda: ["majority"])
    """Compared on the same test examples, paired. The linear probe is tuned on validation."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        yield from _at_least(self, 100, "bootstrap_resamples")
        if self.metrics is not None and not self.metrics:
            yield "metrics: at least one, or null for all of ours"
        strange = [name for name in self.metrics or () if name not in METRICS]
        if strange and not self.trust_remote_code:
            yield (
                f"metrics: {', '.join(strange)} would be run as scripts by evaluate, and ours are "
                f"{', '.join(METRICS)}. If you trust them, set evaluation.trust_remote_code: true (hf-fsl evaluate: "
                "--trust-remote-code)"
            )

    def metrics_of(self, multi_label: bool) -> list[str]:
        """What is measured on a task of this kind."""
        if self.metrics is not None:
            return self.metrics
        return ["accuracy", "macro_f1", "ece"] if multi_label else ["accuracy", "macro_f1", "mcc", "ece"]


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """Whether and where the result is published, and what the card says beyond the measurements."""

    push_to_hub: bool = False
    push_anyway: bool = False
    """Also a model whose interval on test is not above what the most frequent class gives (of multi-label ones: by
    macro F1)."""
    hub_model_id: str | None = None
    hub_private_repo: bool = False
    revision: str | None = None
    """Branch to push to; created where it does not exist."""
    create_pr: bool = False
    commit_message: str | None = None
    license: str | None = None
    language: str | None = None
    tags: list[str] = field(default_factory=list)
    share_examples: bool = False
    """Whether the card shows inputs of the test split where the data set is not public on the Hub."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        if self.push_to_hub and self.hub_model_id is None:
            yield "hub_model_id: needed with push_to_hub (user/name)"
        if self.hub_model_id is not None and (problem := repo_id_problem(self.hub_model_id)):
            yield f"hub_model_id: {problem}"


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig:
    """Everything ``recipes/fine_tune.py`` is told."""

    data: DataConfig
    model: ModelConfig
    adapter: AdapterConfig = AdapterConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    hub: HubConfig = HubConfig()
    recipe: Literal["fine_tune"] = "fine_tune"
    output_dir: str = "outputs/fine_tune"
    ddp_timeout: float = DDP_TIMEOUT
    """Seconds for which the processes of a launch wait for each other."""

    def resolved(self) -> FineTuneConfig:
        """With what its ``null`` stand for: as it is printed, recorded and run."""
        in_full = self.adapter.method == "full" and self.adapter.peft_config is None and not self.model.from_config
        return replace(self, training=self.training.resolved(in_full))

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        yield from _at_least(self, 1, "ddp_timeout")
        yield from self.model.no_stock_classifier()
        yield from self.model.no_prompt()
        multi_label = self.data.problem_type == "multi_label_classification"
        metrics = self.evaluation.metrics_of(multi_label)
        if self.training.metric_for_best_model not in [*metrics, "loss"]:
            yield (
                f"training.metric_for_best_model: one of evaluation.metrics {metrics} or loss, "
                f"got {self.training.metric_for_best_model!r}"
            )
        if multi_label and "mcc" in metrics:
            yield "evaluation.metrics: mcc is not defined for multi_label_classification. Leave it out"
        if self.training.loss != "cross_entropy" and multi_label:
            yield (
                f"training.loss: {self.training.loss} compares examples with one label each, and here they have "
                "several. Use cross_entropy"
            )
        single = self.data.text_pair_column is None and not multi_label
        if "linear_probe" in self.evaluation.baselines and not single:
            yield (
                "evaluation.baselines: linear_probe is for single-label tasks on single texts or images; text pairs "
                "and multi-label tasks have no single embedding or label. Leave it out"
            )


def repo_id_problem(name: str) -> str | None:
    """What is wrong with the id of a repository that is to be pushed to: the Hub's rule, and whose it is."""
    part = r"(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?"
    if re.fullmatch(f"{part}/{part}", name) and len(name.partition("/")[2]) <= 96 and not name.endswith(".git"):
        return None
    return (
        f"user/name, of letters, digits and single -, _ or . (not at the ends); got {name!r}. "
        "`hf auth whoami` says who you are"
    )


def _no_pattern(text: str, name: str) -> Iterator[str]:
    try:
        re.compile(text)
    except re.error as error:
        yield f"{name}: not a regular expression ({error}), got {text!r}; a plain module name will do"


def _at_least(section: object, least: float, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(section, name)
        if value is not None and value < least:
            yield f"{name}: at least {least}, got {value}"


def _between(section: object, low: float, high: float, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(section, name)
        if not low <= value < high:
            yield f"{name}: from {low} to below {high}, got {value}"
