"""Finished trials as plain values, and the context in which one is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_fsl.config.search import COSTS
from hf_fsl.core.measurement import maximized
from hf_fsl.search.space.architecture import Architecture

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class TrialStopped(Exception):
    """Raised by :meth:`TrialContext.report` where a trial is behind the others; caught by the engine."""


class Infeasible(Exception):
    """Raised by a trial function before it trains: the architecture breaks a constraint.

    Args:
        excess: constraint -> by what share of its limit it is broken.
    """

    def __init__(self, excess: dict[str, float]) -> None:
        super().__init__(f"breaks {excess}")
        self.excess = excess


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came of a trial."""

    values: dict[str, float]
    """Objective -> its value, metrics as they are."""
    details: dict[str, Any] = field(default_factory=dict)
    """Anything else worth keeping, as JSON: further metrics, an interval of the first objective, latencies."""


@dataclass(kw_only=True)
class TrialContext:
    """What a trial function is given beside its architecture."""

    folder: Path
    """For its checkpoints. A trial that is run again is given the folder of the one that died."""
    rungs: Sequence[float]
    """Shares of its steps at which it must report; empty where nothing is stopped early."""
    accelerator: Any = None
    token_flops: float = 0.0
    """What the trial took so far: the trial function adds to it before it reports. With ``seconds`` it starts where
    the trial's first worker reported last."""
    seconds: float = 0.0
    reported: dict[int, dict[str, float]] = field(default_factory=dict)
    """Rungs that the trial had passed before its first worker died."""
    decide: Callable[[int, dict[str, float]], bool] = lambda rung, values: True

    def report(self, rung: int, values: Mapping[str, float]) -> None:
        """The objectives at a rung. Every process of the group calls it.

        Raises:
            TrialStopped: the trial is behind; let it through.
        """
        if rung in self.reported:
            return
        self.reported[rung] = dict(values)
        if not self.decide(rung, dict(values)):
            raise TrialStopped(f"behind the other trials at rung {rung}")


TrialFunction = Callable[[Architecture, TrialContext], Evaluation]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A finished trial."""

    number: int
    architecture: Architecture
    parameters: int
    """Trainable ones, the head among them."""
    values: dict[str, float]
    """Objective -> value; infinite where training diverged; at the last rung for one that was stopped."""
    stopped: bool
    """Whether it was behind at a rung, and not trained to its end."""
    token_flops: float
    seconds: float
    details: dict[str, Any]


def is_cost(objective: str) -> bool:
    return objective in COSTS


def minimised(objective: str, value: float) -> float:
    """An objective's value turned so that less is better."""
    return value if is_cost(objective) else -maximized(objective, value)


def worst(objective: str) -> float:
    """The value of an objective for what cannot be trained."""
    return math.inf if minimised(objective, 1.0) > 0 else -math.inf


def is_infeasible(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs.get("infeasible"))


def rung_of(trial: FrozenTrial, rung: int) -> dict[str, float] | None:
    found: dict[str, float] | None = trial.user_attrs.get(f"rung.{rung}")
    return found


def finished_trials(study: optuna.Study, objectives: Sequence[str]) -> list[Tried]:
    """Every architecture that was trained, to its end or to the rung where it was stopped, by number."""
    found = []
    for trial in study.get_trials(deepcopy=False, states=FINISHED):
        if is_infeasible(trial) or "architecture" not in trial.user_attrs:
            continue
        if trial.state == TrialState.COMPLETE:
            values = dict(zip(objectives, trial.values, strict=True))
        else:
            rungs = [int(name[5:]) for name in trial.user_attrs if name.startswith("rung.")]
            values = trial.user_attrs[f"rung.{max(rungs)}"] if rungs else {}
        found.append(
            Tried(
                number=trial.number,
                architecture=Architecture.from_dict(trial.user_attrs["architecture"]),
                parameters=int(trial.user_attrs["parameters"]),
                values=values,
                stopped=trial.state == TrialState.PRUNED,
                token_flops=float(trial.user_attrs.get("token_flops", 0.0)),
                seconds=float(trial.user_attrs.get("seconds", 0.0)),
                details=dict(trial.user_attrs.get("details", {})),
            )
        )
    return sorted(found, key=lambda tried: tried.number)
