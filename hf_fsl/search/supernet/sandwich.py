"""Training by the sandwich rule: each step the smallest member, the largest, and some between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from hf_fsl.config import TrainingConfig
from hf_fsl.config.search_space import Method
from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.search.errors import SearchError
from hf_fsl.search.meter import Meter
from hf_fsl.search.space import GROUPS, Architecture, SearchSpace
from hf_fsl.search.supernet.nested import Supernet
from hf_fsl.training.update import Batch, Step

Members = Callable[[int], Sequence[Architecture]]


class SandwichUpdate(Step):
    """A step of several members on the same batch, their gradients averaged (Yu and Huang 2019).

    ``members`` gives those of a step by its number, the largest last: with several processes the gradients are
    exchanged with the last pass, which must reach every parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        *,
        supernet: Supernet,
        members: Members,
        accelerator: Accelerator,
        config: TrainingConfig,
        meter: Meter | None = None,
    ) -> None:
        super().__init__(model, optimizer, accelerator, config)
        self.supernet, self.members, self.meter = supernet, members, meter

    def backward(self, group: Sequence[Batch]) -> Tensor:
        members = self.members(self._steps_done())
        total = torch.zeros((), device=self.accelerator.device)
        passes = [(member, piece) for member in members for piece in self.cut_up(group)]
        examples = sum(len(piece["labels"]) for _, piece in passes)
        for number, (member, piece) in enumerate(passes, start=1):
            inputs = {name: value for name, value in piece.items() if name not in ("labels", "index")}
            self.supernet.activate(member)
            with self.accelerator.no_sync(self.model) if number < len(passes) else nullcontext():
                logits = self.model(**inputs).logits.float()
                loss = F.cross_entropy(logits, piece["labels"], reduction="sum") / examples
                self.accelerator.backward(loss)
            total += loss.detach()
            if self.meter is not None:
                self.meter.forward(inputs, member, self.supernet.sites)
                self.meter.backward(inputs, member, self.supernet.sites)
        if self.meter is not None:
            self.meter.gradient_steps += len(members)
        return total

    def _steps_done(self) -> int:
        """Steps that the optimiser has made, before a checkpoint too: a resumed run draws the same members."""
        return max((int(state["step"]) for state in self.optimizer.state.values() if "step" in state), default=0)


def member_space(space: SearchSpace, config: SupernetConfig, only_lora: bool = False) -> SearchSpace:
    """The part of a space that one supernet holds: LoRA (and no adapter, where the space has it), trained one way.

    Raises:
        SearchError: the space has no LoRA.
    """
    if "lora" not in space.config.methods:
        raise SearchError(f"A supernet holds lora, which is not among the methods {space.config.methods}.")
    methods: list[Method] = ["lora"] if only_lora or "none" not in space.config.methods else ["lora", "none"]
    fixed = dataclasses.replace(
        space.config,
        methods=methods,
        scaling=[config.scaling],
        dropout=[config.dropout],
        learning_rate=[config.learning_rate],
        steps=[config.max_steps],
        loss=["cross_entropy"],
    )
    return SearchSpace(fixed, space.sites)


def corner(space: SearchSpace, choose: Callable[[list[int]], int]) -> Architecture:
    """The member with the largest (``max``) or the smallest (``min``) rank everywhere; constraints aside."""
    rank, config = choose(space.config.ranks), space.config
    ranks = tuple(
        tuple(rank if (layer, group) in space.slots else 0 for group in GROUPS)
        for layer in range(len(space.sites.layers))
    )
    return Architecture(
        "lora", ranks, config.scaling[0], config.dropout[0], config.learning_rate[0], config.steps[0]
    )  # fmt: skip


def training_config(
    config: SupernetConfig, resume: bool = False, steps: int | None = None, learning_rate: float | None = None
) -> TrainingConfig:
    """The loop's settings: early stopping on the loss of what is evaluated; with ``resume`` a checkpoint at each
    evaluation, and from the last one onwards."""
    return TrainingConfig(
        learning_rate=learning_rate or config.learning_rate,
        head_learning_rate=config.head_learning_rate,
        max_steps=steps or config.max_steps,
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.per_device_eval_batch_size,
        weight_decay=config.weight_decay,
        eval_strategy="steps",
        eval_steps=config.eval_steps,
        metric_for_best_model="loss",
        early_stopping_patience=config.early_stopping_patience,
        auto_find_batch_size=False,
        save_steps=config.eval_steps if resume else None,
        resume_from_checkpoint="auto" if resume else None,
    )
