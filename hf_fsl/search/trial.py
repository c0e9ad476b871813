"""One trial: an architecture trained on the few examples, compared at its rungs, measured on validation."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch import Tensor, nn

from hf_fsl.config.loading import to_dict
from hf_fsl.config.search import COSTS, ShotsConfig, StudyConfig
from hf_fsl.config.sections import ModelConfig, TrainingConfig
from hf_fsl.data.encoding import EncodedSplit
from hf_fsl.data.loading import Splits
from hf_fsl.metrics.intervals import OURS, bootstrap_interval, compute_metrics
from hf_fsl.models.adapters.attach import attach_adapter
from hf_fsl.models.adapters.methods import trained_in_full
from hf_fsl.models.backbones.classification import load_classifier
from hf_fsl.models.backbones.texts import longest_input
from hf_fsl.search.cost import Meter
from hf_fsl.search.errors import SearchError
from hf_fsl.search.few_shot import examples_fingerprint
from hf_fsl.search.space.architecture import Architecture, uniform_ranks
from hf_fsl.search.space.export import to_adapter_config
from hf_fsl.search.space.latency import measure_adapter_latency, measure_latency
from hf_fsl.search.space.sites import Sites, find_sites
from hf_fsl.search.study.identity import fingerprint
from hf_fsl.search.study.trials import Evaluation, Infeasible, TrialContext
from hf_fsl.training.checkpoints import TrainingDiverged, list_checkpoints
from hf_fsl.training.gradient_init import Start, find_start
from hf_fsl.training.loop import training_loop
from hf_fsl.training.losses import ClassificationLoss
from hf_fsl.training.metric_update import classification_update
from hf_fsl.training.prediction import predict_logits
from hf_fsl.training.update import Batch, Step

DIRECTIONS = 64
"""Of the gradient that are kept at each site; the ranks beyond, of an adapter that has more, start at random."""


def shared_start(
    model: nn.Module,
    sites: Sites,
    head: Sequence[str],
    split: EncodedSplit,
    loss: ClassificationLoss,
    new_head: bool,
    meter: Meter,
) -> Start:
    """:func:`hf_fsl.training.find_start` with an adapter at every site, whose directions are good for all others.

    Args:
        model: without an adapter; stays as it is.
        meter: what it costs is added to it.
    """
    everywhere = Architecture("lora", uniform_ranks(DIRECTIONS, sites))

    def count(inputs: Batch, backward: bool) -> None:
        meter.forward(inputs, everywhere, sites)
        if backward:
            meter.backward(inputs, everywhere, sites, weights=True)

    with meter.timed(), torch.random.fork_rng(devices=[]):
        adapted = attach_adapter(copy.deepcopy(model), to_adapter_config(everywhere, sites), head)
        start = find_start(adapted, split, loss, new_head, count)
    meter.gradient_steps += 1
    return start


TIMED = 16
"""Examples in the batch whose latency is measured."""
REPEATS = 20
LATENCIES = ("latency", "merged_latency")
"""With the adapter beside the weights, and in them."""


class AdapterTrial:
    """The trial function of the general path: few-shot training as ``fine_tune`` does it, with a stock model.

    Args:
        model: the backbone.
        splits: of :func:`hf_fsl.search.few_shot.few_shot_splits`.
        few_shot: batch sizes, and the modules trained in full beside every adapter.
        search: what is measured.
        accelerator: of the run.
        seed: of the head's and the adapter's first weights, of the order of examples and of dropout.
        trust_remote_code: lets scripts of metrics run.
    """

    def __init__(
        self,
        model: ModelConfig,
        splits: Splits,
        few_shot: ShotsConfig,
        search: StudyConfig,
        accelerator: Accelerator,
        seed: int = 0,
        trust_remote_code: bool = False,
    ) -> None:
        self.few_shot, self.search, self.accelerator, self.seed = few_shot, search, accelerator, seed
        self.trusts = trust_remote_code
        set_seed(seed)
        classifier = load_classifier(model, splits.task)
        self._random_state = torch.get_rng_state()
        self.model, self.processor, self.commit = classifier.model, classifier.processor, classifier.commit
        known = {name for name, _ in self.model.named_modules()}
        missing = [name for name in few_shot.modules_to_save or () if name not in known]
        if missing:
            raise SearchError(
                f"few_shot.modules_to_save: {type(self.model).__name__} has no {', '.join(missing)}; its own head is "
                f"{', '.join(classifier.head)}."
            )
        self.head = tuple(trained_in_full(self.model, few_shot.modules_to_save, classifier.head))
        self.new_head = classifier.new_head
        self.sites, self.label_names = find_sites(self.model, self.head), splits.task.label_names
        limit = longest_input(self.model, self.processor, model.max_length)
        if limit is not None:
            self.processor.model_max_length = limit
        self.train, self.validation = (
            EncodedSplit(split, splits.task, self.processor, limit, self.model.dtype)
            for split in (splits.train, splits.validation)
        )
        self.examples = {
            "training examples": examples_fingerprint(splits.train),
            "validation examples": examples_fingerprint(splits.validation),
        }
        """Fingerprints of what is trained on and compared by."""
        self.about = fingerprint(model.model_name_or_path, self.commit, limit, to_dict(few_shot), self.examples)
        """Stands for what is trained, and on what: checkpoints of anything else are refused."""
        assert self.validation.labels is not None
        self.labels = self.validation.labels.numpy()
        self.metrics = [name for name in dict.fromkeys([*search.objectives, "loss", "accuracy"]) if name not in COSTS]
        # A metric that cannot be had is found out now, not after a training.
        every_class = np.eye(len(self.label_names))
        compute_metrics(self.metrics, every_class, every_class.argmax(-1), trust_remote_code=self.trusts)
        self.recorded = _recorded_latencies(search.latencies)
        self.model.to(accelerator.device)
        self.meter = Meter.of(self.model, self.sites, self._timed_batch(accelerator))
        self.start_meter = self.meter.empty()
        """What finding the start that all trials share has cost."""

    def __call__(self, architecture: Architecture, context: TrialContext) -> Evaluation:
        """Trains and measures one architecture; see :data:`hf_fsl.search.study.TrialFunction`."""
        accelerator = context.accelerator or self.accelerator
        started = time.perf_counter()
        model = self.adapted(architecture)
        costs = self.latency(model, architecture, accelerator)
        limit = self.search.max_latency
        if limit is not None and costs["merged_latency"] > limit:
            raise Infeasible({"max_latency": costs["merged_latency"] / limit - 1})
        costs["parameters"] = float(sum(p.numel() for p in model.parameters() if p.requires_grad))
        meter = self._metered(model, architecture)
        spent = {"token_flops": 0.0, "seconds": 0.0}
        """Kept in the checkpoints: what a dead worker did after the last one is done again, and counts once."""
        last = {"flops": 0.0, "time": started}

        def count() -> None:
            now = time.perf_counter()
            spent["token_flops"] += (meter.flops - last["flops"]) * accelerator.num_processes
            spent["seconds"] += now - last["time"]
            last["flops"], last["time"] = meter.flops, now
            context.token_flops, context.seconds = spent["token_flops"], spent["seconds"]

        def measure(current: nn.Module) -> dict[str, float]:
            logits = predict_logits(current, self.validation, accelerator, self.few_shot.per_device_eval_batch_size)
            _require_finite(logits, architecture)  # of every process alike: all have all logits
            values = compute_metrics(self.metrics, logits, self.labels, trust_remote_code=self.trusts)
            count()
            measured = {**values, **costs, "seconds": context.seconds, "token_flops": context.token_flops}
            self._last_logits = logits
            return {name: float(measured[name]) for name in dict.fromkeys([*self.search.objectives, *self.metrics])}

        rungs = {
            max(1, round(share * architecture.steps)): number
            for number, share in enumerate(context.rungs)
            if round(share * architecture.steps) < architecture.steps
        }

        def at_step(step: int, current: nn.Module) -> None:
            count()
            if step in rungs:
                values = measure(current)
                context.report(rungs[step], {name: values[name] for name in self.search.objectives})

        checkpoints = list_checkpoints(context.folder)
        done = int(checkpoints[-1].name.rpartition("-")[2]) if checkpoints else 0
        try:
            training_loop(
                model,
                self.train,
                self.training_config(architecture, min(rungs, default=None)),
                accelerator,
                lambda prepared, optimizer: CountedUpdate(
                    classification_update(
                        prepared, optimizer, self._loss(), accelerator, self.training_config(architecture, None)
                    ),
                    at_step,
                    done,
                ),
                seed=self.seed,
                folder=context.folder,
                head=self.head,
                identity={"architecture": architecture.key, "seed": self.seed, "model and examples": self.about},
                notes=spent,
                progress_bar=False,
            )  # fmt: skip
        finally:
            accelerator.free_memory()  # of a stopped trial too
        values = measure(model)
        details: dict[str, Any] = {name: value for name, value in values.items() if name not in COSTS}
        first = self.search.objectives[0]
        if first in OURS:
            interval = bootstrap_interval(first, self._last_logits, self.labels, resamples=1000)
            details["interval"] = list(interval.ci95 or ())
        details |= {name: costs[name] for name in LATENCIES if name in costs}
        return Evaluation(values={name: values[name] for name in self.search.objectives}, details=details)

    def adapted(self, architecture: Architecture) -> nn.Module:
        """A fresh model with the adapter, the same every time."""
        start = self.start
        set_seed(self.seed)  # for devices, whose dropout would go on from the trial before
        torch.set_rng_state(self._random_state)
        model = attach_adapter(copy.deepcopy(self.model), to_adapter_config(architecture, self.sites), self.head)
        if start is not None:
            start.apply(model)
        return model

    @cached_property
    def start(self) -> Start | None:
        """Where all trials start, if that is not at random."""
        if self.few_shot.initialization == "random":
            return None
        return shared_start(
            self.model, self.sites, self.head, self.train, self._loss(), self.new_head, self.start_meter
        )

    def training_config(self, architecture: Architecture, save_steps: int | None) -> TrainingConfig:
        """How ``fine_tune`` would be told to train this architecture."""
        few_shot = self.few_shot
        return TrainingConfig(
            learning_rate=architecture.learning_rate,
            max_steps=architecture.steps,
            per_device_train_batch_size=few_shot.per_device_train_batch_size,
            per_device_eval_batch_size=few_shot.per_device_eval_batch_size,
            loss=architecture.loss,
            label_smoothing_factor=few_shot.label_smoothing_factor,
            mixed_precision=few_shot.mixed_precision,
            eval_strategy="no",
            save_steps=save_steps,
            save_total_limit=1,
            resume_from_checkpoint="auto",
            metric_for_best_model="loss",
            load_best_model_at_end=False,
        )

    def _metered(self, model: nn.Module, architecture: Architecture) -> Meter:
        """A meter that counts every pass of a model from now on."""
        meter = self.meter.empty()

        def count(module: nn.Module, arguments: Any, inputs: dict[str, Any]) -> None:
            meter.forward(inputs, architecture, self.sites)
            if module.training:
                meter.backward(inputs, architecture, self.sites)

        model.register_forward_pre_hook(count, with_kwargs=True)
        return meter

    def latency(self, model: nn.Module, architecture: Architecture, accelerator: Accelerator) -> dict[str, float]:
        """Median seconds of a batch, where the search asks for it: recorded, or measured on the main process."""
        asked = set(LATENCIES) & set(self.search.objectives)
        if not asked and self.search.max_latency is None:
            return {}
        known = self.recorded.get(architecture.key, {})
        if asked | ({"merged_latency"} if self.search.max_latency is not None else set()) <= known.keys():
            return dict(known)
        found: list[Any] = [None]
        if accelerator.is_main_process:
            inputs = self._timed_batch(accelerator)
            if architecture.method == "head":
                (plain,) = measure_latency([model], inputs, REPEATS)
                found = [{"latency": plain.median, "merged_latency": plain.median}]
            else:
                both = measure_adapter_latency(model, inputs, REPEATS)
                found = [{"latency": both["unmerged"].median, "merged_latency": both["merged"].median}]
        if accelerator.num_processes > 1:
            broadcast_object_list(found, from_process=0)
        return dict(found[0])

    def _timed_batch(self, accelerator: Accelerator) -> dict[str, Tensor]:
        items = [self.validation[i % len(self.validation)] for i in range(TIMED)]
        batch = self.validation.collate(items)
        return {name: v.to(accelerator.device) for name, v in batch.items() if name not in ("labels", "index")}

    def _loss(self) -> ClassificationLoss:
        return ClassificationLoss(False, None, self.few_shot.label_smoothing_factor)


class CountedUpdate:
    """An optimiser step that says which step it was.

    Args:
        update: the step.
        at_step: called with the number of steps done and the model after each.
        done: steps done before, by the worker whose checkpoint is gone on from.
    """

    def __init__(self, update: Step, at_step: Callable[[int, nn.Module], None], done: int = 0) -> None:
        self.update, self.at_step, self.step = update, at_step, done

    def __call__(self, group: Sequence[Batch]) -> tuple[Tensor, Tensor | None, int]:
        result = self.update(group)
        self.step += 1
        self.at_step(self.step, self.update.model)
        return result


def _require_finite(logits: np.ndarray, architecture: Architecture) -> None:
    """The last step's loss can be finite and the weights it leaves not: no metric can be had of those."""
    broken = int((~np.isfinite(logits)).any(1).sum())
    if broken:
        raise TrainingDiverged(
            f"Logits of {broken} of {len(logits)} validation examples are not finite: training has diverged at "
            f"learning rate {architecture.learning_rate:g}."
        )


def _recorded_latencies(path: str | None) -> dict[str, dict[str, float]]:
    """Architecture's key -> latencies, out of an earlier report."""
    if path is None:
        return {}
    try:
        trials = json.loads(Path(path).read_text(encoding="utf-8"))["trials"]
        return {row["key"]: {n: float(row["details"][n]) for n in LATENCIES if n in row["details"]} for row in trials}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SearchError(f"search.latencies: {path} is no report of a search with latencies ({error!r}).") from error
