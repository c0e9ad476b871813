"""The configuration of the adapter search. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from hf_fsl.config.search_space import SearchSpaceConfig
from hf_fsl.config.sections import DDP_TIMEOUT, DataConfig, EvaluationConfig, HubConfig, ModelConfig, _at_least

Sampler = Literal["random", "tpe", "nsga2"]
Strategy = Literal["general", "gradient"]

COSTS = ("parameters", "latency", "merged_latency", "token_flops", "seconds")
"""Objectives that are not metrics; all are minimised."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What is searched for, by whom, for how long, and where the study is kept."""

    objectives: list[str] = field(default_factory=lambda: ["loss", "parameters"])
    """The first is a metric on validation: ``loss`` (log-loss), or one of ours or of evaluate. The others are metrics
    or costs: trainable ``parameters``, ``latency`` (of the adapter beside the weights) or ``merged_latency`` in
    seconds a batch, ``token_flops`` or ``seconds`` of training."""
    sampler: Sampler = "tpe"
    startup: int = 10
    """Architectures drawn at random before the sampler proposes; NSGA-II: its population."""
    trials: int | None = 40
    """Architectures to try, over all workers; those stopped early and those of dead workers that run again count
    once."""
    seconds: float | None = None
    """Budget in seconds of all trials of all workers together."""
    token_flops: float | None = None
    """Budget in floating-point operations of all trials, estimated from their tokens, evaluation included."""
    rungs: list[float] = field(default_factory=lambda: [0.25, 0.5])
    """Shares of its steps after which a trial is compared with the others, and stopped where it is behind."""
    reduction_factor: float = 3.0
    """A trial goes on where fewer than 1/factor of those at its rung lie on a better front."""
    max_latency: float | None = None
    """Seconds a batch with the adapter merged; slower architectures are not trained."""
    latencies: str | None = None
    """The ``report.json`` of an earlier study: its latencies are taken instead of measured, so that a study with one
    worker repeats exactly."""
    storage: str | None = None
    """URL of the database that workers share (``postgresql://user@host/name``); ``null``: an SQLite file in
    ``output_dir``."""
    name: str | None = None
    """Of the study; ``null``: the name of ``output_dir``."""
    heartbeat: int = 30
    """Seconds between two signs of life of a trial; after three without one it is run again from its checkpoint."""
    max_retries: int = 3
    """Times that a trial whose worker died or failed is run again; after them its architecture is left."""
    wait_for_storage: float | None = None
    """Seconds that a storage which stops to answer is waited for; ``null``: as long as it takes."""
    seed: int = 0

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        if not self.objectives:
            yield "objectives: at least one"
        elif self.objectives[0] in COSTS:
            yield f"objectives: the first is a metric, such as loss; got {self.objectives[0]}"
        if len(set(self.objectives)) < len(self.objectives):
            yield f"objectives: each once, got {self.objectives}"
        if self.trials is None and self.seconds is None and self.token_flops is None:
            yield "trials, seconds or token_flops: at least one of them, or the search would not end"
        for name in ("trials", "startup", "heartbeat"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"{name}: at least 1, got {value}"
        for name in ("seconds", "token_flops", "max_latency", "wait_for_storage"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                yield f"{name}: above 0, got {value}"
        if any(not 0 < rung < 1 for rung in self.rungs) or sorted(set(self.rungs)) != self.rungs:
            yield f"rungs: ascending shares between 0 and 1, got {self.rungs}"
        if self.reduction_factor <= 1:
            yield f"reduction_factor: above 1, got {self.reduction_factor}"
        if self.max_retries < 0 or self.seed < 0:
            yield "max_retries and seed: at least 0"


@dataclass(frozen=True, kw_only=True)
class ShotsConfig:
    """The few labelled examples: all that the search sees."""

    shots: int = 8
    """Labelled examples of each class, those for validation among them."""
    validation_shots: int = 3
    """Of them, held out to compare architectures."""
    seed: int = 0
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 64
    initialization: Literal["random", "gradient"] = "gradient"
    """Where every training starts, as ``adapter.initialization`` of ``fine_tune``; that of the baselines too."""
    label_smoothing_factor: float = 0.0
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "no"
    """Of every training, as ``training.mixed_precision`` of ``fine_tune``."""
    modules_to_save: list[str] | None = None
    """Modules trained in full with every architecture, beside the classification head, which always is."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        for name in ("shots", "validation_shots", "per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                yield f"{name}: at least 1, got {getattr(self, name)}"
        if self.validation_shots >= self.shots >= 1:
            yield (
                f"validation_shots: fewer than shots ({self.shots}), or nothing is left to train on; "
                f"got {self.validation_shots}"
            )
        if not 0 <= self.label_smoothing_factor < 1:
            yield f"label_smoothing_factor: from 0 to below 1, got {self.label_smoothing_factor}"


@dataclass(frozen=True, kw_only=True)
class FinishConfig:
    """How the best of what was found is trained again, compared and chosen."""

    members: int = 5
    """Architectures of the front: those that together dominate most of what the search found."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    learning_rate_factors: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    """The learning rate of each is tuned again on validation, among these multiples of its own."""
    eval_steps: int | None = None
    """Validate every so many steps and keep the best weights; ``null``: those of the last step, as in the search."""
    early_stopping_patience: int | None = None
    baseline_rank: int = 8
    """Of the uniform LoRA that is tuned and trained in the same way beside them; 0: none."""
    choose: Literal["best", "smallest"] = "smallest"
    """What is published: what is best on validation, or the smallest within a standard error (over seeds) of it."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        if self.members < 1 or self.baseline_rank < 0:
            yield "members: at least 1; baseline_rank: at least 0"
        if self.eval_steps is not None and self.eval_steps < 1:
            yield f"eval_steps: at least 1, got {self.eval_steps}"
        if self.early_stopping_patience is not None and self.eval_steps is None:
            yield "early_stopping_patience: needs eval_steps"
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            yield f"seeds: at least one, each once; got {self.seeds}"
        if not self.learning_rate_factors or any(factor <= 0 for factor in self.learning_rate_factors):
            yield f"learning_rate_factors: at least one, all above 0; got {self.learning_rate_factors}"


@dataclass(frozen=True, kw_only=True)
class AdapterSearchConfig:
    """Everything ``recipes/search_adapters.py`` is told."""

    data: DataConfig
    model: ModelConfig
    few_shot: ShotsConfig = ShotsConfig()
    space: SearchSpaceConfig = SearchSpaceConfig()
    strategy: str | None = None
    """``gradient``: ``search.trials`` sizes of LoRA, each with its ranks where one gradient pass says that they gain
    most; ``general``: a sampler proposes architectures of any method, and learns from those that were trained.
    ``null``: ``gradient`` where all methods are LoRA's, else ``general``."""
    search: StudyConfig = StudyConfig()
    finish: FinishConfig = FinishConfig()
    evaluation: EvaluationConfig = EvaluationConfig(baselines=[])
    hub: HubConfig = HubConfig()
    recipe: Literal["search_adapters"] = "search_adapters"
    output_dir: str = "outputs/search_adapters"
    ddp_timeout: float = DDP_TIMEOUT
    """Seconds for which the processes of a launch wait for each other."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        yield from _at_least(self, 1, "ddp_timeout")
        yield from self.model.no_stock_classifier()
        yield from self.model.no_prompt()
        if self.data.problem_type != "single_label_classification":
            yield "data.problem_type: the search is for tasks with one label an example"
        metrics = self.evaluation.metrics_of(multi_label=False)
        for name in self.search.objectives:
            if name not in (*COSTS, "loss", *metrics):
                yield (
                    f"search.objectives: loss, one of evaluation.metrics {metrics}, or one of "
                    f"{', '.join(COSTS)}; got {name!r}"
                )
        if self.strategy == "supernet":
            yield (
                "strategy: supernet is gone: it added nothing to the gradient pass that it started from. "
                "Use gradient, or general for other methods than LoRA"
            )
        elif self.strategy not in (None, *get_args(Strategy)):
            yield f"strategy: one of {', '.join(get_args(Strategy))}, or null; got {self.strategy!r}"
        if self.path == "gradient" and "lora" not in self.space.methods:
            yield f"strategy: gradient ranks the sites of LoRA, which is not among space.methods {self.space.methods}"

    @property
    def path(self) -> Strategy:
        """The strategy, or what follows from the methods where none is given."""
        if self.strategy is None:
            methods = set(self.space.methods)
            return "gradient" if "lora" in methods and methods <= {"lora", "head"} else "general"
        return "gradient" if self.strategy == "gradient" else "general"
