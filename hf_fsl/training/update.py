"""One optimiser step: forward, backward, clip, update; and the optimiser and schedule it uses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from tqdm import tqdm

from hf_fsl.config.sections import TrainingConfig
from hf_fsl.core.errors import UserError
from hf_fsl.models.backbones.texts import length_batches
from hf_fsl.training.losses import ClassificationLoss

Batch = dict[str, Tensor]

TOKENS_AT_ONCE = {"cpu": 384}
"""Tokens, padding included, of the pieces in which a batch of texts goes through a model, by device. Elsewhere a batch
is one piece."""


class Step(ABC):
    """One optimiser step over a group of batches; cuts batches up when the memory does not suffice."""

    def __init__(self, model: nn.Module, optimizer: Any, accelerator: Accelerator, config: TrainingConfig) -> None:
        self.model, self.optimizer = model, optimizer
        self.accelerator, self.config, self.pieces = accelerator, config, 1
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def __call__(self, group: Sequence[Batch]) -> tuple[Tensor, Tensor | None, int]:
        """Mean loss, norm of the gradient before clipping, number of examples over all processes."""
        while True:
            try:
                value = self.backward(group)
                break
            except RuntimeError as error:
                largest = max(len(batch["index"]) for batch in group)
                can_cut = self.config.auto_find_batch_size and self.pieces < largest
                if not (should_reduce_batch_size(error) and can_cut and self.accelerator.num_processes == 1):
                    raise
            # Outside the handler, or the traceback would keep the activations alive.
            self.pieces = min(2 * self.pieces, largest)
            self.optimizer.zero_grad(set_to_none=True)
            if self.accelerator.device.type == "cuda":
                torch.cuda.empty_cache()
            tqdm.write(f"Out of memory: batches of {largest} now run in {self.pieces} pieces, gradients unchanged.")
        norm = None
        if self.config.max_grad_norm is not None:
            norm = self.accelerator.clip_grad_norm_(self.trained, self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return value, norm, sum(len(batch["index"]) for batch in group) * self.accelerator.num_processes

    @abstractmethod
    def backward(self, group: Sequence[Batch]) -> Tensor:
        """Adds up the gradients of a group, its batches cut up. Returns its mean loss."""

    def cut_up(self, group: Sequence[Batch]) -> list[Batch]:
        """The batches of a group in the pieces that go through the model one after the other."""
        parts = (part for batch in group for part in by_length(batch))
        return [piece for part in parts for piece in cut(part, self.pieces)]


class Update(Step):
    """The step of a loss of single examples."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        loss: ClassificationLoss,
        accelerator: Accelerator,
        config: TrainingConfig,
    ) -> None:
        super().__init__(model, optimizer, accelerator, config)
        self.loss = loss

    def backward(self, group: Sequence[Batch]) -> Tensor:
        pieces = self.cut_up(group)
        denominator = sum(self.loss.denominator(piece["labels"]) for piece in pieces)
        total = torch.zeros((), device=self.accelerator.device)
        for number, piece in enumerate(pieces, start=1):
            inputs = {name: value for name, value in piece.items() if name not in ("labels", "index")}
            wait = self.accelerator.no_sync(self.model) if number < len(pieces) else nullcontext()
            with wait:
                value = self.loss(self.model(**inputs).logits, piece["labels"]) / denominator
                self.accelerator.backward(value)
            total += value.detach()
        return self.accelerator.reduce(total, reduction="mean") if self.accelerator.num_processes > 1 else total


def cut(batch: Batch, pieces: int) -> Iterator[Batch]:
    """A batch in so many pieces of like size."""
    if pieces == 1:
        yield batch
        return
    size = math.ceil(len(batch["index"]) / pieces)
    for start in range(0, len(batch["index"]), size):
        yield {name: value[start : start + size] for name, value in batch.items()}


def by_length(batch: Batch) -> Iterator[Batch]:
    """A batch of texts in pieces of like length on a CPU, longest first, each cut to its longest; else as it is.

    A random batch is mostly padding, and on a CPU padding costs what text does.
    """
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    limit = TOKENS_AT_ONCE.get(mask.device.type) if mask is not None else None
    if mask is None or ids is None or limit is None or mask.numel() <= limit:
        yield batch
        return
    width = mask.shape[1]
    padded = {name for name, value in batch.items() if name != "labels" and value.shape[:2] == ids.shape[:2]}
    on_the_left = not bool(mask[:, 0].all())
    lengths = mask.sum(1).tolist()
    for rows in length_batches(lengths, limit):
        longest = lengths[rows[0]]
        kept = slice(width - longest, width) if on_the_left else slice(longest)
        yield {name: value[rows][:, kept] if name in padded else value[rows] for name, value in batch.items()}


def make_optimizer(model: nn.Module, config: TrainingConfig, head: Sequence[str]) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; no weight decay on biases, norms and temperatures.

    Raises:
        UserError: nothing is trainable, or there is no learning rate.
    """
    if config.learning_rate is None:
        raise UserError("training.learning_rate is null, which a recipe's config resolves; here give a number.")
    decayed = set(transformers.trainer_pt_utils.get_parameter_names(model, [nn.LayerNorm], ["bias", "norm"]))
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_head = config.head_learning_rate is not None and any(f".{part}." in f".{name}" for part in head)
            groups.setdefault((in_head, name in decayed and parameter.numel() > 1), []).append(parameter)
    if not groups:
        raise UserError("Nothing to train: no parameter of the model requires a gradient.")
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.head_learning_rate if in_head else config.learning_rate,
                "weight_decay": config.weight_decay if decay else 0.0,
            }
            for (in_head, decay), parameters in groups.items()
        ],
        fused=True,
    )


def make_scheduler(optimizer: torch.optim.Optimizer, config: TrainingConfig, total: int) -> Any:
    """The learning rate schedule over ``total`` optimiser steps."""
    warmup = config.warmup_steps if config.warmup_steps >= 1 else math.ceil(config.warmup_steps * total)
    return transformers.get_scheduler(config.lr_scheduler_type, optimizer, int(warmup), total)
