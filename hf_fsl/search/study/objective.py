"""One trial of a study: an architecture proposed, refused, known already, or run, and what came of it noted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_fsl.config.search import StudyConfig
from hf_fsl.search.errors import SearchError
from hf_fsl.search.pareto import non_dominated_ranks
from hf_fsl.search.space.architecture import Architecture
from hf_fsl.search.space.space import SearchSpace
from hf_fsl.search.study.budget import Budget
from hf_fsl.search.study.group import Group
from hf_fsl.search.study.samplers import SpaceSampler
from hf_fsl.search.study.storage import worker_key
from hf_fsl.search.study.trials import (
    FINISHED,
    Evaluation,
    Infeasible,
    TrialContext,
    TrialFunction,
    TrialStopped,
    is_infeasible,
    minimised,
    rung_of,
    worst,
)

_FAILED = 1e300
"""Stands for a value that is no number: behind all others."""


def goes_on(
    mine: Mapping[str, float], others: Sequence[Mapping[str, float]], objectives: Sequence[str], factor: float
) -> bool:
    """Whether a trial is among the best 1/``factor`` of those that reached its rung so far (Li et al. 2020).

    Ahead of it are those on a better front; so what is on the first front always goes on. Nobody is stopped while
    no more than ``factor`` trials are there.

    Args:
        mine: objective -> value at the rung.
        others: those of the other trials there.
    """
    if len(others) + 1 <= factor:
        return True
    rows = [[minimised(name, row[name]) for name in objectives] for row in (mine, *others)]
    ranks = non_dominated_ranks(np.nan_to_num(np.array(rows), nan=_FAILED, posinf=_FAILED))
    return int((ranks < ranks[0]).sum()) < len(rows) / factor


IN_VAIN = 200
"""Proposals in a row that may break a constraint before the search is given up, and that may be known already before
the space is taken for exhausted."""


class Surplus(Exception):
    """A trial started in the moment when another worker started the last one."""


class Objective:
    """What Optuna calls for each trial, on the main process of a launched group."""

    def __init__(
        self,
        space: SearchSpace,
        function: TrialFunction,
        config: StudyConfig,
        group: Group,
        folder: Path,
        sampler: SpaceSampler,
    ) -> None:
        self.space, self.function, self.config, self.group = space, function, config, group
        self.folder, self.sampler = folder, sampler
        self.budget = Budget.of(config)
        self.worker: str | None = None
        """Name of this worker."""
        self.in_vain = 0
        """Proposals in a row that broke a constraint."""
        self.current: int | None = None
        """Number of the trial that is being run."""
        self.checkpoints: Path | None = None
        """Of the trial that is being run."""

    def __call__(self, trial: optuna.Trial) -> list[float]:
        self.current = trial.number
        trial.set_user_attr(worker_key(trial.number), self.worker)
        if self._is_surplus(trial):
            raise Surplus
        for name, value in (("origin", trial.number), ("ordinal", self.sampler.ordinal)):
            if name not in trial.user_attrs:
                trial.set_user_attr(name, value)
        architecture = self.space.suggest(trial)
        trial.set_user_attr("architecture", architecture.to_dict())
        trial.set_user_attr("parameters", self.space.parameters(architecture))
        excess = self._excess(architecture)
        if excess:
            return self._infeasible(trial, excess)
        twin = _twin(trial, architecture)
        if twin is not None:
            self.in_vain = 0
            return _as_before(trial, twin)
        context = self._context(trial)
        self.group.start(architecture, context)
        try:
            evaluation = self.function(architecture, context)
        except Infeasible as found:
            return self._infeasible(trial, found.excess)
        except TrialStopped as stopped:
            self._note_cost(trial, context)
            raise optuna.TrialPruned(str(stopped)) from None
        except FloatingPointError as error:
            self._note_cost(trial, context)
            return self._diverged(trial, architecture, str(error))
        self._note_cost(trial, context)
        return self._values(trial, architecture, evaluation)

    def _context(self, trial: optuna.Trial) -> TrialContext:
        attributes = trial.user_attrs
        self.checkpoints = self.folder / "trials" / str(attributes["origin"])
        context = TrialContext(
            folder=self.checkpoints,
            rungs=self.config.rungs,
            accelerator=self.group.accelerator,
            token_flops=float(attributes.get("token_flops", 0.0)),
            seconds=float(attributes.get("seconds", 0.0)),
            reported={
                number: attributes[f"rung.{number}"]
                for number in range(len(self.config.rungs))
                if attributes.get(f"goes_on.{number}")
            },
        )
        context.decide = self._decider(trial, context)
        return context

    def _values(self, trial: optuna.Trial, architecture: Architecture, evaluation: Evaluation) -> list[float]:
        missing = [name for name in self.config.objectives if name not in evaluation.values]
        if missing:
            raise SearchError(f"search.objectives: the trial measured {list(evaluation.values)}, not {missing}.")
        values = {name: float(evaluation.values[name]) for name in self.config.objectives}
        # Optuna fails a trial that gives NaN, without a word, and what failed is proposed again: for ever.
        odd = ", ".join(f"{name} is {value}" for name, value in values.items() if not math.isfinite(value))
        if odd:
            return self._diverged(trial, architecture, odd, evaluation.details)
        trial.set_user_attr("details", evaluation.details)
        return list(values.values())

    def _diverged(
        self, trial: optuna.Trial, architecture: Architecture, why: str, details: Mapping[str, object] | None = None
    ) -> list[float]:
        trial.set_user_attr("details", {**(details or {}), "diverged": why})
        return self._worst_values(architecture)

    def _note_cost(self, trial: optuna.Trial, context: TrialContext) -> None:
        self.in_vain = 0  # something was trained
        trial.set_user_attr("token_flops", context.token_flops)
        trial.set_user_attr("seconds", context.seconds)

    def _decider(self, trial: optuna.Trial, context: TrialContext) -> Callable[[int, dict[str, float]], bool]:
        def decide(rung: int, values: dict[str, float]) -> bool:
            verdict = False
            try:
                self._note_cost(trial, context)
                trial.set_user_attr(f"rung.{rung}", values)
                others = [
                    found
                    for other in trial.study.get_trials(deepcopy=False)
                    if other.number != trial.number
                    and other.state != TrialState.FAIL
                    and (found := rung_of(other, rung)) is not None
                ]
                verdict = goes_on(values, others, self.config.objectives, self.config.reduction_factor)
                trial.set_user_attr(f"goes_on.{rung}", verdict)
            finally:
                self.group.share(verdict)  # whatever happened here, the others wait for a word
            return verdict

        return decide

    def _is_surplus(self, trial: optuna.Trial) -> bool:
        """Whether enough trials were started before this one. A dead worker's trial always runs again."""
        if "origin" in trial.user_attrs:
            return False
        return self.budget.is_spent([t for t in trial.study.get_trials(deepcopy=False) if t.number < trial.number])

    def _excess(self, architecture: Architecture) -> dict[str, float]:
        size, found = self.space.parameters(architecture), {}
        least, most = self.space.config.min_parameters, self.space.config.max_parameters
        if most is not None and size > most:
            found["max_parameters"] = size / max(most, 1) - 1
        if least is not None and size < least:
            found["min_parameters"] = 1 - size / least
        return found

    def _infeasible(self, trial: optuna.Trial, excess: Mapping[str, float]) -> list[float]:
        for name, value in excess.items():
            trial.set_constraint(name, value)
        trial.set_user_attr("infeasible", dict(excess))
        self.in_vain += 1
        if self.in_vain >= IN_VAIN:
            raise SearchError(
                f"{IN_VAIN} proposals in a row broke a constraint, the last one by {_shares(excess)}. Widen "
                f"{', '.join(excess)}."
            )
        return self._worst_values(Architecture.from_dict(trial.user_attrs["architecture"]))

    def _worst_values(self, architecture: Architecture) -> list[float]:
        known = {"parameters": float(self.space.parameters(architecture))}
        return [known.get(name, worst(name)) for name in self.config.objectives]


def is_exhausted(trials: list[FrozenTrial]) -> bool:
    """Whether the last proposals of all workers, those that broke a constraint aside, had all been tried before.

    Twins cost nothing: a budget of seconds or operations alone would never be spent on them.
    """
    known = 0
    for trial in reversed(trials):
        if trial.state not in FINISHED or is_infeasible(trial):
            continue
        if "twin" not in trial.user_attrs:
            return False
        known += 1
        if known >= IN_VAIN:
            return True
    return False


def _twin(trial: optuna.Trial, architecture: Architecture) -> FrozenTrial | None:
    """A finished trial of the same architecture: training is seeded, so it would come out the same."""
    plain = architecture.to_dict()
    for other in trial.study.get_trials(deepcopy=False, states=FINISHED):
        if other.user_attrs.get("architecture") == plain and not is_infeasible(other):
            return other
    return None


def _as_before(trial: optuna.Trial, twin: FrozenTrial) -> list[float]:
    for name, value in twin.user_attrs.items():
        if name.startswith("rung.") or name == "details":
            trial.set_user_attr(name, value)
    trial.set_user_attr("twin", twin.number)
    if twin.state == TrialState.PRUNED:
        raise optuna.TrialPruned(f"as trial {twin.number}")
    return list(twin.values)


def _shares(excess: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.0%} of {name}" for name, share in excess.items())
