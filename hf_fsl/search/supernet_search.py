"""The LoRA path of a search, whole: one supernet, its members scored as trials of a study are, its ranking audited."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.search.audit import Audit, audit
from hf_fsl.search.data import SearchData
from hf_fsl.search.nas import Latency, MemberScore, search_members
from hf_fsl.search.space import Architecture, SearchSpace, measure_latency
from hf_fsl.search.study.group import Group
from hf_fsl.search.study.trials import Tried
from hf_fsl.search.supernet import TrainedSupernet, train_supernet

RESAMPLES = 1000
"""Of the intervals of members' validation losses."""


@dataclass(frozen=True)
class SupernetSearch:
    """What came of it.

    Attributes:
        tried: every member that was scored, as trials of a study are, with what scoring it cost. One that left the
            race early counts as stopped.
        front: members that no other dominates, smallest first.
        audit: None where none was asked for.
        space: the members' part of the search space.
        token_flops: of all of it, on all processes: training, members, audit; ``seconds`` likewise.
    """

    tried: list[Tried]
    front: list[MemberScore]
    audit: Audit | None
    trained: TrainedSupernet
    space: SearchSpace
    token_flops: float
    seconds: float


def search_by_supernet(
    model: nn.Module,
    data: SearchData,
    space: SearchSpace,
    config: SupernetConfig,
    *,
    seed: int = 0,
    folder: Path | None = None,
    accelerator: Accelerator | None = None,
    latency: bool | Latency = False,
    recorded: Mapping[str, float] | None = None,
    about: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
) -> SupernetSearch:
    """Trains a supernet, scores its members, and audits the ranking.

    Args:
        model: a classifier; it stays as it is.
        space: of which LoRA (and ``none``) is searched.
        folder: for what is done: a search that was stopped goes on where it was. None: it starts anew.
        latency: whether it is a third objective; or a function of the architecture that gives it.
        recorded: architecture's key -> latency that is taken instead of measured.
        about: what the search is about (:func:`hf_fsl.search.study.identity`): what ``folder`` keeps of another is
            refused.
        say: told what was found.
        progress: shows bars with the time left.

    Raises:
        SearchError: the space has no LoRA, or the folder holds another search.
    """
    trained = train_supernet(
        model, data, space, config, seed=seed, accelerator=accelerator, progress_bar=progress,
        folder=folder / "supernet" if folder is not None else None, about=about,
    )  # fmt: skip
    group = Group(accelerator)
    say(
        f"supernet: {trained.progress.step} steps, validation log-loss of its largest member "
        f"{trained.progress.evaluation.get('loss', float('nan')):.4f}"
    )
    seconds = supernet_latency(trained, group, recorded or {}) if latency is True else latency or None
    with tqdm(total=config.members, desc="members", unit="member", disable=not progress) as bar, trained.meter.timed():
        found = search_members(
            trained, members=config.members, population=config.population, seed=seed, latency=seconds,
            tell=lambda score: _advance(bar),
        )  # fmt: skip
    audited: Audit | None = None
    if config.audit_sizes:
        runs = config.audit_sizes * config.audit_anchors * len(config.audit_seeds)
        with tqdm(total=runs, desc="audit", unit="training", disable=not progress) as bar:
            audited = audit(
                model, data, trained, config, strata=config.audit_sizes, per_stratum=config.audit_anchors,
                seeds=config.audit_seeds, seed=seed, folder=folder / "audit" if folder is not None else None,
                tell=lambda architecture, each, loss: _advance(bar), about=about,
            )  # fmt: skip
        say(audited.verdict)
    resample = _resampling(len(trained.evaluator.order), seed)
    tried = [_as_trial(number, score, group.size, resample) for number, score in enumerate(found.scores)]
    meter = trained.meter  # of this process: every one trains its share, and evaluates all
    return SupernetSearch(
        tried, found.front, audited, trained, trained.space, meter.flops * group.size, meter.seconds
    )  # fmt: skip


def supernet_latency(
    trained: TrainedSupernet, group: Group, recorded: Mapping[str, float], repeats: int = 10
) -> Latency:
    """Median seconds of a member on the first validation batch, its update beside the weights.

    Measured by the main process for all: each with figures of its own would have members and a front of its own.
    """
    inputs = trained.evaluator.first_batch()

    def measured(architecture: Architecture) -> float:
        if architecture.key in recorded:
            return recorded[architecture.key]
        found = 0.0
        if group.is_main:
            trained.supernet.activate(architecture)
            found = measure_latency([trained.supernet.model], inputs, repeats)[0].median
        return float(group.share(found))

    return measured


def _advance(bar: Any) -> None:
    bar.update()


def _resampling(count: int, seed: int) -> np.ndarray:
    """``(B, N)``: how much each of N examples weighs in B bootstrap samples."""
    return np.random.default_rng([seed, 3]).multinomial(count, np.full(count, 1 / count), RESAMPLES) / count


def _as_trial(number: int, score: MemberScore, processes: int, resample: np.ndarray) -> Tried:
    values = {"loss": score.loss, "parameters": float(score.parameters)}
    details: dict[str, Any] = {"examples": len(score.losses)}
    if score.finished:
        details["interval"] = np.quantile(resample @ score.losses, [0.025, 0.975]).tolist()
    if score.latency is not None:
        values["latency"] = details["latency"] = score.latency
    return Tried(
        number=number,
        architecture=score.architecture,
        parameters=score.parameters,
        values=values,
        stopped=not score.finished,
        token_flops=score.token_flops * processes,
        seconds=score.seconds,
        details=details,
    )
