"""The one training loop, in plain sight: Accelerate, no trainer class, no callbacks."""

from __future__ import annotations

import itertools
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from hf_fsl.config.sections import TrainingConfig
from hf_fsl.core.errors import UserError
from hf_fsl.core.measurement import maximized
from hf_fsl.training.batches import TrainingBatches
from hf_fsl.training.checkpoints import (
    WAY_OUT,
    TrainingDiverged,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_trainable_state,
    save_checkpoint,
    trainable_state,
)
from hf_fsl.training.losses import ClassificationLoss
from hf_fsl.training.metric_update import classification_update
from hf_fsl.training.precision import fast_attention
from hf_fsl.training.signals import TrainingInterrupted, noted_signals
from hf_fsl.training.update import Batch, make_optimizer, make_scheduler

FEW_STEPS = 50
"""Optimiser steps below which a warning is due."""

Evaluate = Callable[[nn.Module], dict[str, float]]
MakeUpdate = Callable[[nn.Module, Any], Callable[[Sequence[Batch]], tuple[torch.Tensor, torch.Tensor | None, int]]]
Log = Callable[[dict[str, float], int], None]


class TrainingSplit(Protocol):
    """What is trained on: examples of which batches are made. ``index`` is among what a batch holds."""

    lengths: list[int] | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def collate(self, items: Sequence[Any]) -> Batch: ...


@dataclass
class Progress:
    """Where training stands; everything but the tensors that a checkpoint must hold."""

    step: int = 0
    """Optimiser steps done."""
    epoch: int = 0
    batches_done: int = 0
    """Of this epoch, on this process."""
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    """Evaluations since the best one."""
    wall_seconds: float = 0.0
    window_loss: float = 0.0
    window_steps: int = 0
    stopped: bool = False
    evaluation: dict[str, float] = field(default_factory=dict)
    """The best evaluation, or the last where none is the best."""


def training_loop(
    model: nn.Module,
    split: TrainingSplit,
    config: TrainingConfig,
    accelerator: Accelerator,
    loss: ClassificationLoss | MakeUpdate,
    *,
    seed: int,
    folder: Path,
    head: Sequence[str] = (),
    evaluate: Evaluate | None = None,
    identity: dict[str, Any] | None = None,
    notes: dict[str, Any] | None = None,
    log: Log | None = None,
    say: Callable[[str], None] | None = None,
    progress_bar: bool = True,
) -> Progress:
    """Trains in place the parameters of ``model`` that require gradients.

    Signals that end a process are obeyed after the optimiser step (and the evaluation) that they fall into, and after
    a checkpoint.

    Args:
        model: gives ``.logits``; afterwards holds the best weights on validation (``load_best_model_at_end``), else
            the last.
        split: of one that has ``start_epoch``, it is called with the number of the epoch before the epoch's batches.
        config: steps, rates, evaluation and checkpoints.
        accelerator: of the launch; all its processes call this together.
        loss: of ``.logits``; or, where a step is made in another way, what makes the step of the prepared model and
            optimiser: called with a group of batches it gives loss, norm of the gradient, and number of examples.
        seed: of the data order. Seed torch for dropout before the model is built.
        folder: where this run's checkpoints go; a run that does not resume replaces those of an earlier one.
        head: modules trained with ``head_learning_rate``.
        evaluate: model -> validation metrics, ``metric_for_best_model`` among them.
        identity: what makes this run this run; a checkpoint with another identity is refused.
        notes: plain values that are kept in every checkpoint, and updated by what is in the one that is gone on from.
        log: called with scalars and the step. Of one that has ``rewind``, it is called first, with the step that
            training starts after: what was logged of later ones is not of this training.
        say: told what is resumed, or why nothing is, and that very few steps are planned.
        progress_bar: shown on the main process.

    Raises:
        CheckpointError: see :mod:`hf_fsl.training.checkpoints`.
        TrainingInterrupted: a signal ended training.
    """
    order = TrainingBatches(
        len(split), config.per_device_train_batch_size, seed,
        split.lengths if config.train_sampling_strategy == "group_by_length" else None,
    )  # fmt: skip
    examples_of: Any = split
    loader = DataLoader(
        examples_of, batch_sampler=order, collate_fn=split.collate, num_workers=config.dataloader_num_workers,
        generator=torch.Generator(), pin_memory=accelerator.device.type == "cuda",
    )  # fmt: skip
    if config.gradient_checkpointing:
        enable: Any = model.gradient_checkpointing_enable
        enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = make_optimizer(model, config, head)
    wrapped, stepper, loader = accelerator.prepare(model, optimizer, loader)
    steps_per_epoch = math.ceil(len(loader) / config.gradient_accumulation_steps)
    total = config.max_steps or math.ceil(config.num_train_epochs * steps_per_epoch)
    scheduler = make_scheduler(optimizer, config, total)
    progress, best = Progress(), None
    resumed = find_checkpoint(folder, config.resume_from_checkpoint)
    identity = {**(identity or {}), "seed": seed, "total_steps": total, "processes": accelerator.num_processes}
    if say is not None:
        for line in _announced(folder, resumed, config, total):
            say(line)
    if resumed is not None:
        state, best = load_checkpoint(resumed, accelerator, wrapped, optimizer, identity)
        progress = Progress(**state["progress"])
        scheduler.load_state_dict(state["scheduler"])
        if notes is not None:
            notes.update(state.get("notes") or {})
    elif accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    accelerator.wait_for_everyone()
    make_update: Any = loss
    if isinstance(loss, ClassificationLoss):
        make_update = partial(classification_update, loss=loss, accelerator=accelerator, config=config)
    step_update = make_update(wrapped, stepper)
    begin_epoch: Callable[[int], None] | None = getattr(split, "start_epoch", None)
    rewind: Callable[[int], None] | None = getattr(log, "rewind", None)
    if rewind is not None:
        rewind(progress.step)
    started = time.perf_counter() - progress.wall_seconds
    window = torch.tensor(progress.window_loss, device=accelerator.device)
    last_saved, saved_at = progress.step if resumed is not None else -1, time.monotonic()

    def save() -> None:
        nonlocal last_saved, saved_at
        if last_saved != progress.step:
            progress.wall_seconds = time.perf_counter() - started
            progress.window_loss = _finite(float(window), progress.step)  # a sum: only looked at, never shown
            state = {"step": progress.step, "progress": asdict(progress), "scheduler": scheduler.state_dict(),
                     "identity": identity, "notes": notes}  # fmt: skip
            save_checkpoint(folder, accelerator, wrapped, optimizer, state, best, config.save_total_limit)
            last_saved = progress.step
        saved_at = time.monotonic()

    def save_if_due(at_the_end: bool = False) -> None:
        """Also ends training where a signal asks for it."""
        minutes = config.save_minutes
        late = minutes is not None and time.monotonic() - saved_at >= 60 * minutes
        planned = config.save_steps is not None and progress.step % config.save_steps == 0
        received, late = signals.agreed(accelerator, late)
        if received or late or planned or at_the_end:
            save()
        if at_the_end and not received:
            received, _ = signals.agreed(accelerator, False)  # one that came while the last checkpoint was written
        if received:
            name, done = signal.Signals(received).name, f"step {progress.step} of {total}"
            where = folder / f"checkpoint-{progress.step}"
            message = (
                f"{name}: training stopped after {done}, saved in {where}. Go on with the same command and "
                "--training.resume_from_checkpoint auto."
            )
            raise TrainingInterrupted(received, message if accelerator.is_main_process else "")

    def validate() -> None:
        nonlocal best
        if evaluate is None:
            return
        values = evaluate(wrapped)
        if log is not None:
            log({f"validation/{name}": value for name, value in values.items()}, progress.step)
        if _note_evaluation(progress, values, config):
            best = trainable_state(wrapped) if config.load_best_model_at_end else None
            progress.evaluation = values
        patience = config.early_stopping_patience
        progress.stopped = patience is not None and progress.stale >= patience

    wrapped.train()
    _freeze_statistics(wrapped)
    hidden = not (progress_bar and accelerator.is_main_process)
    bar = tqdm(total=total, initial=progress.step, desc=f"seed {seed}", unit="step", disable=hidden)
    fast = fast_attention(model, accelerator.mixed_precision == "bf16", accelerator.device)
    with noted_signals() as signals, bar, fast:
        while progress.step < total and not progress.stopped:
            order.start_epoch(progress.epoch)
            if begin_epoch is not None:
                begin_epoch(progress.epoch)
            seen, clock = 0, time.perf_counter()
            rest = accelerator.skip_first_batches(loader, progress.batches_done) if progress.batches_done else loader
            for group in _groups(rest, config.gradient_accumulation_steps):
                value, norm, examples = step_update(group)
                seen += examples
                scheduler.step()
                progress.step += 1
                progress.batches_done += len(group)
                window += value
                progress.window_steps += 1
                bar.update()
                if progress.step % config.logging_steps == 0 or progress.step == total:
                    row = {
                        "train/loss": _finite(float(window) / progress.window_steps, progress.step),
                        "train/learning_rate": optimizer.param_groups[0]["lr"],
                        "train/examples_per_second": seen / (time.perf_counter() - clock),
                        "train/epoch": progress.epoch + progress.batches_done / len(loader),
                    }
                    # Not where nothing is clipped, nor of a step that fp16 skips: NaN is no JSON.
                    if norm is not None and math.isfinite(float(norm)):
                        row["train/grad_norm"] = float(norm)
                    bar.set_postfix(loss=f"{row['train/loss']:.3f}", lr=f"{row['train/learning_rate']:.1e}",
                                    ex_s=f"{row['train/examples_per_second']:.0f}")  # fmt: skip
                    window.zero_()
                    seen, clock = 0, time.perf_counter()
                    progress.window_steps = 0
                    if log is not None:
                        log(row, progress.step)
                if config.eval_strategy == "steps" and config.eval_steps and progress.step % config.eval_steps == 0:
                    validate()
                if progress.step == total or progress.stopped:
                    break
                if progress.batches_done < len(loader):  # else after the evaluation of the epoch
                    save_if_due()
                if progress.window_steps == 0:
                    clock = time.perf_counter()  # what validation and saving took is not training time
            else:
                progress.epoch, progress.batches_done = progress.epoch + 1, 0
            whole_epoch = progress.batches_done == 0 or progress.step == total
            if config.eval_strategy == "epoch" and whole_epoch:
                validate()
            if progress.step < total and not progress.stopped:
                save_if_due()
        save_if_due(at_the_end=True)
    progress.wall_seconds = time.perf_counter() - started
    if best is not None:
        load_trainable_state(wrapped, best)
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    accelerator.free_memory()
    return progress


def _announced(folder: Path, resumed: Path | None, config: TrainingConfig, total: int) -> Iterator[str]:
    """What is to be known before the first step."""
    if resumed is not None:
        yield f"Resumed from {resumed}, of {total} steps."
    elif config.resume_from_checkpoint is not None:
        yield f"Nothing to resume: no checkpoint in {folder}. Training starts anew."
    elif there := list_checkpoints(folder):
        yield (
            f"{there[-1]} is of an earlier run and is removed: to go on from it, "
            "--training.resume_from_checkpoint auto is needed."
        )
    if total < FEW_STEPS:
        yield (
            f"Only {total} optimiser steps are planned; fewer than {FEW_STEPS} seldom teach a model anything. Raise "
            "training.num_train_epochs or training.max_steps, or lower training.per_device_train_batch_size. With "
            "very few labels take the few_shot recipe, which needs no training."
        )


def _groups(loader: Any, size: int) -> Iterator[list[Batch]]:
    batches = iter(loader)
    while group := list(itertools.islice(batches, size)):
        yield group


def _note_evaluation(progress: Progress, values: dict[str, float], config: TrainingConfig) -> bool:
    """Whether these are the values to keep; counts how long the best has not been beaten."""
    if config.metric_for_best_model not in values:
        raise UserError(
            f"metric_for_best_model: {config.metric_for_best_model!r} is not among the metrics computed "
            f"({', '.join(values)})."
        )
    score = maximized(config.metric_for_best_model, values[config.metric_for_best_model])
    if progress.best is None or score > progress.best:
        progress.best, progress.best_step, progress.stale = score, progress.step, 0
        return True
    progress.stale += 1
    return not config.load_best_model_at_end


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise TrainingDiverged(f"The training loss is {loss} at step {step}: training has diverged. {WAY_OUT}")
    return loss


def _freeze_statistics(model: nn.Module) -> None:
    """Frozen batch norms keep their running statistics: an adapter is saved without them."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(
            parameter.requires_grad for parameter in module.parameters()
        ):
            module.eval()
