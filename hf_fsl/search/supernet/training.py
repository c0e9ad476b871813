"""From a frozen backbone to a trained supernet: head, gradient pass, sandwich rule, early stop, reordering."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from hf_fsl.adapters.gradients import LayerGradient
from hf_fsl.config import to_dict
from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.search.data import SearchData
from hf_fsl.search.meter import Meter
from hf_fsl.search.space import Architecture, SearchSpace
from hf_fsl.search.supernet.evaluation import MemberEvaluator
from hf_fsl.search.supernet.gradients import gradient_pass, initialize_from
from hf_fsl.search.supernet.head import fit_head_alone
from hf_fsl.search.supernet.keeping import Kept, add_to, keep, kept_in, meter_values
from hf_fsl.search.supernet.nested import Supernet
from hf_fsl.search.supernet.prefix import PrefixCache
from hf_fsl.search.supernet.reorder import reorder
from hf_fsl.search.supernet.sandwich import SandwichUpdate, corner, member_space, training_config
from hf_fsl.training import Progress, make_accelerator, train


@dataclass(frozen=True)
class TrainedSupernet:
    """A supernet, its validation, and what happened on the way."""

    supernet: Supernet
    evaluator: MemberEvaluator
    meter: Meter
    gradients: dict[str, LayerGradient]
    progress: Progress
    reordered: bool
    space: SearchSpace
    """The members: the part of the search space that the supernet holds."""


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
    progress_bar: bool = False,
    about: Mapping[str, Any] | None = None,
) -> TrainedSupernet:
    """Gradient pass, super-adapter by the sandwich rule, early stop on its largest member, reordering.

    Args:
        model: a classifier; it stays as it is.
        folder: for checkpoints and for what comes of it: an interrupted training goes on from there, a finished one is
            read from there. None: it starts anew.
        meter: what is spent is added to it; None: a new one.
        progress_bar: shown on the main process.
        about: what the search is about (:func:`hf_fsl.search.study.identity`): kept, and compared.

    Raises:
        SearchError: the space has no LoRA, or the folder holds another supernet.
    """
    held, sites = member_space(space, config), space.sites
    accelerator = accelerator or make_accelerator()
    torch.manual_seed(seed)
    supernet = Supernet(model, sites, corner(held, max))
    supernet.model.to(accelerator.device)
    meter = meter or Meter.of(supernet.model, sites, _one_example(data, accelerator.device))
    meter.phase = "supernet"
    identity = {**(about or {}), "config": to_dict(config), "space": space.to_dict(), "seed": seed}
    identity["examples"] = len(data.train)
    evaluator = MemberEvaluator(
        supernet, data.validation, config.per_device_eval_batch_size,
        cache=PrefixCache(supernet.model, sites), meter=meter,
    )  # fmt: skip
    kept = kept_in(folder, identity) if folder is not None else None
    if kept is None:
        before = meter_values(meter)
        with meter.timed():
            kept = _train(
                supernet, evaluator, data, space, config, seed, folder, accelerator, meter, identity, progress_bar
            )
        if folder is not None and accelerator.is_main_process:
            spent = _difference(meter_values(meter), before)
            keep(folder, identity, Kept(supernet.state(), kept.gradients, kept.progress, kept.reordered, spent))
        accelerator.wait_for_everyone()
    else:
        supernet.load_state(kept.state)
        add_to(meter, kept.meter)
    return TrainedSupernet(supernet, evaluator, meter, kept.gradients, kept.progress, kept.reordered, held)


def _train(
    supernet: Supernet,
    evaluator: MemberEvaluator,
    data: SearchData,
    space: SearchSpace,
    config: SupernetConfig,
    seed: int,
    folder: Path | None,
    accelerator: Accelerator,
    meter: Meter,
    identity: dict[str, Any],
    progress_bar: bool,
) -> Kept:
    sites, largest = supernet.sites, supernet.largest
    if config.head_steps:
        supernet.activate(Architecture.uniform(0, len(sites.layers)))
        fit_head_alone(supernet.model, sites, data.train, config, seed, meter)
    gradients: dict[str, LayerGradient] = {}
    if config.initialization == "gradient":
        gradients = supernet_gradients(supernet, data, config, meter)
        initialize_from(supernet, gradients)
    drawn_from, smallest = member_space(space, config, only_lora=True), corner(member_space(space, config), min)

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
            folder=folder / "checkpoints" if folder is not None else Path(temporary),
            head=sites.head,
            identity=identity,
            evaluate=lambda wrapped: {"loss": float(evaluator.losses(largest).mean())},
            progress_bar=progress_bar,
        )  # fmt: skip
    reordered = _reordered(supernet, evaluator, drawn_from, config, seed)
    return Kept({}, gradients, progress, reordered, {})


def supernet_gradients(
    supernet: Supernet, data: SearchData, config: SupernetConfig, meter: Meter | None = None
) -> dict[str, LayerGradient]:
    """The gradient pass on the supernet's own backbone and head, before its training."""
    rank = max(max(row) for row in supernet.largest.ranks)
    with _base_layers(supernet):
        return gradient_pass(
            supernet.model, supernet.sites, data.train, rank, config.per_device_train_batch_size, meter
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


def _one_example(data: SearchData, device: torch.device) -> dict[str, torch.Tensor]:
    batch = data.train.collate([data.train[0]])
    return {name: value.to(device) for name, value in batch.items() if name not in ("labels", "index")}


def _difference(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    phases = {name: cost - before["by_phase"].get(name, 0.0) for name, cost in after["by_phase"].items()}
    rest = {name: value - before[name] for name, value in after.items() if name != "by_phase"}
    return {**rest, "by_phase": phases}
