"""Training by the sandwich rule: each step the smallest member, the largest, and some between."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from hf_fsl.config import TrainingConfig, to_dict
from hf_fsl.config.search_space import Method
from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.search.data import SearchData
from hf_fsl.search.errors import SearchError
from hf_fsl.search.meter import Meter
from hf_fsl.search.space import GROUPS, Architecture, SearchSpace
from hf_fsl.search.supernet.evaluation import MemberEvaluator
from hf_fsl.search.supernet.gradients import SiteGradient, gradient_pass, initialize_from
from hf_fsl.search.supernet.head import fit_head_alone
from hf_fsl.search.supernet.nested import Supernet
from hf_fsl.search.supernet.prefix import PrefixCache
from hf_fsl.search.supernet.reorder import reorder
from hf_fsl.training import Progress, make_accelerator, train
from hf_fsl.training.update import Batch, Step

Members = Callable[[int], Sequence[Architecture]]


@dataclass(frozen=True)
class TrainedSupernet:
    """A supernet, its validation, and what happened on the way."""

    supernet: Supernet
    evaluator: MemberEvaluator
    meter: Meter
    gradients: dict[str, SiteGradient]
    progress: Progress
    reordered: bool
    space: SearchSpace
    """The members: the part of the search space that the supernet holds."""


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
        passes = [(member, batch) for member in members for batch in group]
        for number, (member, batch) in enumerate(passes, start=1):
            inputs = {name: value for name, value in batch.items() if name not in ("labels", "index")}
            self.supernet.activate(member)
            with self.accelerator.no_sync(self.model) if number < len(passes) else nullcontext():
                loss = F.cross_entropy(self.model(**inputs).logits.float(), batch["labels"])
                self.accelerator.backward(loss / len(passes))
            total += loss.detach() / len(passes)
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


def train_supernet(
    model: nn.Module,
    data: SearchData,
    space: SearchSpace,
    config: SupernetConfig,
    *,
    seed: int = 0,
    folder: Path | None = None,
    accelerator: Accelerator | None = None,
    meter: Meter | None = None,
) -> TrainedSupernet:
    """Gradient pass, super-adapter by the sandwich rule, early stop on its largest member, reordering.

    Args:
        model: a classifier; it stays as it is.
        folder: for checkpoints, from which training goes on if it was interrupted; None: it starts anew.
        meter: what is spent is added to it; None: a new one.

    Raises:
        SearchError: the space has no LoRA.
    """
    held, sites = member_space(space, config), space.sites
    accelerator = accelerator or make_accelerator()
    largest, smallest = corner(held, max), corner(held, min)
    torch.manual_seed(seed)
    supernet = Supernet(model, sites, largest)
    supernet.model.to(accelerator.device)
    first = {k: v for k, v in data.train.collate([data.train[0]]).items() if k not in ("labels", "index")}
    first = {name: value.to(accelerator.device) for name, value in first.items()}
    meter = meter or Meter.of(model.to(accelerator.device), sites, first)
    meter.phase = "supernet"
    if config.head_steps:
        supernet.activate(Architecture.uniform(0, len(sites.layers)))
        fit_head_alone(supernet.model, sites, data.train, config, seed, meter)
    gradients: dict[str, SiteGradient] = {}
    if config.initialization == "gradient":
        gradients = supernet_gradients(supernet, data, config, meter)
        initialize_from(supernet, gradients)
    cache = PrefixCache(supernet.model, sites)
    evaluator = MemberEvaluator(supernet, data.validation, config.per_device_eval_batch_size, cache=cache, meter=meter)
    drawn_from = member_space(space, config, only_lora=True)

    def members(step: int) -> Sequence[Architecture]:
        rng = np.random.default_rng([seed, step])
        return [smallest, *(drawn_from.sample_stratified(rng) for _ in range(config.sampled_members)), largest]

    settings = training_config(config, resume=folder is not None)
    with tempfile.TemporaryDirectory() as temporary:
        progress = train(
            supernet.model,
            data.train,
            settings,
            accelerator,
            lambda wrapped, optimizer: SandwichUpdate(
                wrapped, optimizer, supernet=supernet, members=members, accelerator=accelerator,
                config=settings, meter=meter,
            ),
            seed=seed,
            folder=folder or Path(temporary),
            head=sites.head,
            identity={"supernet": to_dict(config), "space": space.to_dict()},
            evaluate=lambda wrapped: {"loss": float(evaluator.losses(largest).mean())},
        )  # fmt: skip
    reordered = _reordered(supernet, evaluator, drawn_from, config, seed)
    return TrainedSupernet(supernet, evaluator, meter, gradients, progress, reordered, held)


def supernet_gradients(
    supernet: Supernet, data: SearchData, config: SupernetConfig, meter: Meter | None = None
) -> dict[str, SiteGradient]:
    """The gradient pass on the supernet's own backbone and head, before its training."""
    rank = max(max(row) for row in supernet.largest.ranks)
    with _base_layers(supernet):
        return gradient_pass(
            supernet.model, supernet.sites, data.train, rank, config.per_device_train_batch_size, meter
        )


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


def _reordered(
    supernet: Supernet, evaluator: MemberEvaluator, space: SearchSpace, config: SupernetConfig, seed: int
) -> bool:
    """Reorders as the config says. Returns whether it was done and kept."""
    if config.reorder == "never":
        return False
    if config.reorder == "always":
        reorder(supernet)
        return True
    rng = np.random.default_rng([seed, 1])
    sample = [space.sample_stratified(rng) for _ in range(8)]
    before, state = np.mean([evaluator.losses(member).mean() for member in sample]), supernet.state()
    reorder(supernet)
    if np.mean([evaluator.losses(member).mean() for member in sample]) < before:
        return True
    supernet.load_state(state)
    return False


@contextmanager
def _base_layers(supernet: Supernet) -> Iterator[None]:
    """The plain layers in the model again for a while, so that the names of sites are those of weights."""
    for name, site in supernet.nested.items():
        supernet.model.set_submodule(name, site.base)
    try:
        yield
    finally:
        for name, site in supernet.nested.items():
            supernet.model.set_submodule(name, site)
