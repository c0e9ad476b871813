"""Training runs of the adapter search benchmark: a configuration on one support set, and the file that keeps runs."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import peft
import torch
from accelerate import Accelerator

from hf_fsl.config import AdapterConfig, DataConfig, ModelConfig, TrainingConfig
from hf_fsl.config.search import ShotsConfig, StudyConfig
from hf_fsl.data import Splits, load_splits
from hf_fsl.data.encoding import EncodedSplit
from hf_fsl.hub.seed import minilm_folder
from hf_fsl.metrics.intervals import example_losses
from hf_fsl.models.adapters import attach_adapter
from hf_fsl.search.cost import Meter
from hf_fsl.search.few_shot import few_shot_splits
from hf_fsl.search.space import Architecture, to_adapter_config, uniform_ranks
from hf_fsl.search.trial import AdapterTrial, CountedUpdate
from hf_fsl.training import predict_logits, training_loop
from hf_fsl.training.checkpoints import TrainingDiverged, load_trainable_state, trainable_state
from hf_fsl.training.losses import ClassificationLoss
from hf_fsl.training.update import Update

DATA = Path(__file__).parents[1] / "recipes" / "data" / "supersense"
RUNGS = (0.25, 0.5, 1.0)
"""Shares of the steps after which a run is validated; test is read of the best of them, which is its outcome."""

DIVERGED = 1e6
"""Log-loss of a training that diverged: behind all others."""

Kind = Literal["architecture", "started", "adalora", "full"]
"""``started``: an architecture whose training starts from the gradient (hf_fsl/training/gradient_init.py)."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What every run of a benchmark shares."""

    shots: int
    validation_shots: int
    steps: int
    batch_size: int
    test_examples: int
    eval_batch_size: int = 16
    """Small, since a batch is padded to its longest text, and padding costs what text does."""


class Runs:
    """Rows of finished runs in a JSONL file: a benchmark that was stopped goes on where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]  # a killed run may leave half a line
        if lines and not lines[-1].endswith("\n"):
            path.write_text("".join(lines[:-1]), encoding="utf-8")
        self.rows: dict[str, Row] = {row["key"]: row for row in rows}

    def get(self, identity: dict[str, Any]) -> Row | None:
        return self.rows.get(_key(identity))

    def add(self, identity: dict[str, Any], values: Row) -> Row:
        row = {"key": _key(identity), **identity, **values}
        self.rows[row["key"]] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row


class Bench:
    """Supersense with a few labels a class, drawn by ``support``; all that a method sees of it, and the test texts."""

    def __init__(self, sizes: Sizes, support: int, runs: Runs, accelerator: Accelerator) -> None:
        self.sizes, self.support, self.runs, self.accelerator = sizes, support, runs, accelerator
        shots = ShotsConfig(
            shots=sizes.shots, validation_shots=sizes.validation_shots, seed=support,
            per_device_train_batch_size=sizes.batch_size,
        )  # fmt: skip
        splits: Splits = few_shot_splits(load_splits(DataConfig(path=str(DATA), text_column="text")), shots)
        model = ModelConfig(model_name_or_path=str(minilm_folder()), max_length=64)
        self.trial = AdapterTrial(model, splits, shots, StudyConfig(), accelerator)
        self.model, self.sites, self.classes = self.trial.model, self.trial.sites, len(self.trial.label_names)
        # The same test texts for every support, drawn once.
        kept = np.random.default_rng(0).permutation(len(splits.test))[: sizes.test_examples]
        test = splits.test.select(sorted(kept.tolist()))
        self.test = EncodedSplit(test, splits.task, self.trial.processor, 64, self.model.dtype)
        assert self.test.labels is not None
        self.test_labels = self.test.labels.numpy()

    @property
    def start_cost(self) -> Meter:
        """What it takes to find the start that all started trainings share."""
        assert self.trial.start is not None
        return self.trial.start_meter

    def identity(self, what: str, **more: Any) -> dict[str, Any]:
        """By which a row is known again."""
        return {"what": what, "support": self.support, **asdict(self.sizes), **more}

    def run(self, architecture: Architecture, seed: int, kind: Kind = "architecture") -> Row:
        """Trains a configuration, or gives what is known of it.

        Args:
            architecture: with its learning rate; of ``adalora`` and ``full`` it gives learning rate and steps, and of
                the former the ranks it starts from.
            seed: of head, adapter, dropout and the order of the examples. A ``started`` one counts only its training:
                the start is found once, for all.
        """
        identity = self.identity(kind, architecture=architecture.to_dict(), seed=seed)
        known = self.runs.get(identity)
        if known is not None:
            return known
        torch.manual_seed(seed)
        model = copy.deepcopy(self.model)
        renew_head(model, self.sites.head, seed)
        model = attach_adapter(model, self._adapter(architecture, kind), self.sites.head)
        if kind == "started":
            assert self.trial.start is not None
            self.trial.start.apply(model)
        row = self._train(model, architecture, seed, kind)
        outcome = best_rung(row)
        print(
            f"support {self.support}, seed {seed}, {kind}, {row['parameters']:,} parameters, learning rate "
            f"{architecture.learning_rate:g}: validation {outcome['validation_loss']:.3f}, test "
            f"{outcome['test_loss']:.3f} ({outcome['test_accuracy']:.1%})",
            flush=True,
        )
        return self.runs.add(identity, row)

    def _train(self, model: Any, architecture: Architecture, seed: int, kind: Kind) -> Row:
        meter, rungs = self.trial.meter.empty(), list[Row]()
        best: dict[str, Any] = {"loss": np.inf, "rung": None, "state": None}
        # Gradients of full fine-tuning go down to the lowest layer, those of the weights are computed everywhere.
        metered = self._lowest(architecture) if kind == "full" else architecture

        def count(module: Any, arguments: Any, inputs: dict[str, Any]) -> None:
            meter.forward(inputs, metered, self.sites)
            if module.training:
                meter.backward(inputs, metered, self.sites, weights=kind == "full")

        counting = model.register_forward_pre_hook(count, with_kwargs=True)
        wanted = {max(1, round(share * architecture.steps)) for share in RUNGS}

        def at_step(step: int, current: Any) -> None:
            if step not in wanted:
                return
            losses, right = self._measured(current, self.trial.validation, self.trial.labels)
            rung = {"step": step, "validation_loss": float(losses.mean()), "validation_accuracy": float(right.mean())}
            rungs.append({**rung, "token_flops": meter.flops, "gradient_steps": step})
            if rung["validation_loss"] < best["loss"]:
                best.update(loss=rung["validation_loss"], rung=rungs[-1], state=trainable_state(current))

        settings = TrainingConfig(
            learning_rate=architecture.learning_rate, max_steps=architecture.steps, eval_strategy="no",
            per_device_train_batch_size=self.sizes.batch_size, load_best_model_at_end=False,
        )  # fmt: skip
        update = partial(
            _update, kind=kind, loss=ClassificationLoss(False, None, 0.0), accelerator=self.accelerator,
            config=settings, at_step=at_step,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            try:
                training_loop(
                    model, self.trial.train, settings, self.accelerator, update, seed=seed, folder=Path(folder),
                    head=self.sites.head, progress_bar=False,
                )  # fmt: skip
            except TrainingDiverged:
                self.accelerator.free_memory()
                rungs.append(_diverged(architecture.steps, meter.flops, len(rungs)))
        counting.remove()  # test is read by the benchmark, no method pays for it
        losses, right = np.full(len(self.test), DIVERGED), np.zeros(len(self.test))
        if best["state"] is not None:
            load_trainable_state(model, best["state"])
            losses, right = self._measured(model, self.test, self.test_labels)
            best["rung"] |= {"test_loss": float(losses.mean()), "test_accuracy": float(right.mean())}
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if kind == "adalora":
            parameters = self._kept_parameters(model)
        return {
            "parameters": parameters,
            "rungs": rungs,
            "test_losses": losses.round(4).tolist(),
            "test_right": right.astype(int).tolist(),
        }

    def _measured(self, model: Any, split: EncodedSplit, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-loss of each example, and whether it is right."""
        logits = predict_logits(model, split, self.accelerator, self.sizes.eval_batch_size)
        return np.nan_to_num(example_losses(logits, labels), nan=DIVERGED), logits.argmax(-1) == labels

    def _adapter(self, architecture: Architecture, kind: Kind) -> AdapterConfig | peft.PeftConfig:
        if kind == "full":
            return AdapterConfig(method="full")
        if kind in ("architecture", "started"):
            return to_adapter_config(architecture, self.sites)
        rank, steps = max(max(row) for row in architecture.ranks), architecture.steps
        return peft.AdaLoraConfig(
            init_r=rank, target_r=max(1, round(rank * 2 / 3)), tinit=max(1, steps // 10), tfinal=max(1, steps // 3),
            deltaT=1, total_step=steps, lora_alpha=int(architecture.scaling * rank),
            target_modules=[site.name for site in self.sites.sites], modules_to_save=list(self.sites.head),
        )  # fmt: skip

    def _lowest(self, architecture: Architecture) -> Architecture:
        return architecture.replace(method="lora", ranks=uniform_ranks(1, self.sites, layers=[0]))

    def _kept_parameters(self, model: Any) -> int:
        """Of AdaLoRA: the singular values that its budget left, with their vectors, and the head."""
        pattern = next(iter(model.peft_config.values())).rank_pattern or {}
        total = self.sites.head_parameters
        for site in self.sites.sites:
            kept = next(values for name, values in pattern.items() if f".{site.name}." in f".{name}.")
            total += int(np.sum(kept)) * (site.fan_in + site.fan_out + 1)
        return total


def renew_head(model: torch.nn.Module, head: Sequence[str], seed: int) -> None:
    """New random weights in the head, spread as its present ones; biases zero. In place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in head:
            for parameter in model.get_submodule(part).parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * float(parameter.std()))
                elif not bool((parameter == 1).all()):  # the weight of a norm stays
                    parameter.zero_()


def best_rung(row: Row, rung: int | None = None) -> Row:
    """The measurement of a run, up to a rung, that is best on validation."""
    seen = row["rungs"] if rung is None else row["rungs"][: rung + 1]
    return min(seen, key=lambda values: values["validation_loss"])


def _update(
    model: Any, optimizer: Any, *, kind: Kind, at_step: Callable[[int, Any], None], **options: Any
) -> CountedUpdate:
    if kind == "adalora":
        steps = iter(range(1, 1_000_000))
        # After the step and before gradients are dropped, as PEFT asks for.
        optimizer.optimizer.register_step_post_hook(lambda *_: model.base_model.update_and_allocate(next(steps)))
    return CountedUpdate(Update(model, optimizer, **options), at_step)


def _diverged(steps: int, token_flops: float, seen: int) -> Row:
    """The measurement of a run whose training loss is no number."""
    worst = dict.fromkeys(("validation_loss", "test_loss"), DIVERGED) | dict.fromkeys(
        ("validation_accuracy", "test_accuracy"), 0.0
    )
    return {**worst, "step": steps, "token_flops": token_flops, "gradient_steps": steps, "diverged_after": seen}


def _key(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
