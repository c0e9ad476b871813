"""The LoRA path of a search, whole: one supernet, its members scored as trials of a study are, its ranking audited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.search.audit import Audit, audit
from hf_fsl.search.data import SearchData
from hf_fsl.search.nas import Latency, MemberScore, search_members
from hf_fsl.search.space import Architecture, SearchSpace, measure_latency
from hf_fsl.search.study.trials import Tried
from hf_fsl.search.supernet import TrainedSupernet, train_supernet


@dataclass(frozen=True)
class SupernetSearch:
    """What came of it.

    Attributes:
        tried: every member that was scored, as trials of a study are; the training of the supernet is in the cost of
            the first. One that left the race early counts as stopped.
        front: members that no other dominates, smallest first.
        audit: None where none was asked for.
        space: the members' part of the search space.
    """

    tried: list[Tried]
    front: list[MemberScore]
    audit: Audit | None
    trained: TrainedSupernet
    space: SearchSpace


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
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
) -> SupernetSearch:
    """Trains a supernet, scores its members, and audits the ranking.

    Args:
        model: a classifier; it stays as it is.
        space: of which LoRA (and ``none``) is searched.
        folder: for what is done: a search that was stopped goes on where it was. None: it starts anew.
        latency: whether it is a third objective; or a function of the architecture that gives what was recorded.
        say: told what was found.
        progress: shows bars with the time left.

    Raises:
        SearchError: the space has no LoRA, or the folder holds another search.
    """
    trained = train_supernet(
        model, data, space, config, seed=seed, accelerator=accelerator, progress_bar=progress,
        folder=folder / "supernet" if folder is not None else None,
    )  # fmt: skip
    training_cost = trained.meter.flops
    say(
        f"supernet: {trained.progress.step} steps, validation log-loss of its largest member "
        f"{trained.progress.evaluation.get('loss', float('nan')):.4f}"
    )
    seconds = supernet_latency(trained) if latency is True else latency or None
    with tqdm(total=config.members, desc="members", unit="member", disable=not progress) as bar:
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
                tell=lambda architecture, each, loss: _advance(bar),
            )  # fmt: skip
        say(audited.verdict)
    tried = [
        _as_trial(number, score, (training_cost, trained.progress.wall_seconds) if number == 0 else (0.0, 0.0))
        for number, score in enumerate(found.scores)
    ]
    return SupernetSearch(tried, found.front, audited, trained, trained.space)


def supernet_latency(trained: TrainedSupernet, repeats: int = 10) -> Latency:
    """Median seconds of a member on the first validation batch, its update beside the weights."""
    inputs = trained.evaluator.first_batch()

    def measured(architecture: Architecture) -> float:
        trained.supernet.activate(architecture)
        return measure_latency([trained.supernet.model], inputs, repeats)[0].median

    return measured


def _advance(bar: Any) -> None:
    bar.update()


def _as_trial(number: int, score: MemberScore, training: tuple[float, float]) -> Tried:
    values = {"loss": score.loss, "parameters": float(score.parameters)}
    if score.latency is not None:
        values["latency"] = score.latency
    return Tried(
        number=number,
        architecture=score.architecture,
        parameters=score.parameters,
        values=values,
        stopped=not score.finished,
        token_flops=score.token_flops + training[0],
        seconds=score.seconds + training[1],
        details={"examples": len(score.losses)},
    )
