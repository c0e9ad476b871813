"""A study: architectures proposed, run and recorded, by any number of workers on one storage."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from accelerate import Accelerator
from optuna.trial import FrozenTrial, TrialState

from hf_fsl.config.search import StudyConfig
from hf_fsl.search.errors import SearchError
from hf_fsl.search.space import Architecture, SearchSpace
from hf_fsl.search.study.budget import Budget, ProgressBar, counted
from hf_fsl.search.study.group import Group
from hf_fsl.search.study.identity import claim
from hf_fsl.search.study.rungs import goes_on
from hf_fsl.search.study.samplers import SpaceSampler
from hf_fsl.search.study.storage import PatientStorage, fail_stale_trials, open_storage
from hf_fsl.search.study.trials import (
    FINISHED,
    Infeasible,
    TrialContext,
    TrialFunction,
    TrialStopped,
    Tried,
    finished_trials,
    is_cost,
    is_infeasible,
    rung_of,
    worst,
)

IN_VAIN = 200
"""Proposals in a row that may break a constraint before the search is given up."""


class _Surplus(Exception):
    """A trial started in the moment when another worker started the last one."""


def run_study(
    space: SearchSpace,
    function: TrialFunction,
    config: StudyConfig,
    *,
    name: str,
    folder: str | Path,
    identity: Mapping[str, Any],
    accelerator: Accelerator | None = None,
    first: Sequence[Architecture] = (),
    say: Callable[[str], None] | None = None,
    progress: bool = False,
) -> list[Tried]:
    """Works on a study until its budget is spent, beside whoever else does.

    Returns when nobody runs a trial of it any more; a worker that died in the meantime is noticed, and its trial run
    again. What is finished is never run again: a study that was stopped goes on where it was. Every process of a
    launch calls it; trials are run by all of them together.

    Args:
        function: runs one architecture, see :class:`TrialContext`.
        config: budget, sampler, rungs, storage.
        name: of the study.
        folder: for the SQLite file and the trials' checkpoints; workers on several machines share it, or a dead
            worker's trial starts from its beginning.
        identity: what the study is about (:func:`hf_fsl.search.study.identity.identity`); others are refused.
        first: architectures to start with.
        say: told what happens to the storage and to other workers; default: standard error.
        progress: shows a bar with the time left.

    Returns:
        All finished trials, by number.

    Raises:
        StorageAway: the storage does not answer at the start, or for longer than ``config.wait_for_storage``.
        StudyMismatch: the study is about something else.
        SearchError: no proposal meets the constraints.
    """
    group = Group(accelerator)
    if not group.is_main:
        group.follow(function)
        return list(group.share())
    worker = _Worker(space, function, config, group, Path(folder), say)
    worker.first = first
    finished = worker.work(name, identity, progress)
    group.finish()
    return list(group.share(finished))


def study_url(config: StudyConfig, folder: str | Path) -> str:
    """Where the study is kept."""
    return config.storage or f"sqlite:///{(Path(folder) / 'study.db').absolute()}"


class _Worker:
    """The main process of a launched group."""

    def __init__(
        self, space: SearchSpace, function: TrialFunction, config: StudyConfig, group: Group, folder: Path, say: Any
    ) -> None:
        self.space, self.function, self.config, self.group = space, function, config, group
        self.folder, self.say = folder, say
        self.budget = Budget.of(config)
        self.first: Sequence[Architecture] = ()
        self.in_vain = 0
        self.current: int | None = None
        """Number of the trial that is being run."""
        self.checkpoints: Path | None = None

    def work(self, name: str, identity: Mapping[str, Any], progress: bool) -> list[Tried]:
        config = self.config
        self.folder.mkdir(parents=True, exist_ok=True)
        storage = open_storage(
            study_url(config, self.folder), config.heartbeat, config.max_retries, config.wait_for_storage, self.say
        )
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            study = optuna.create_study(
                storage=storage,
                sampler=SpaceSampler(config.sampler, self.space, config.seed, config.startup, self.first),
                study_name=name,
                directions=[_direction(name) for name in config.objectives],
                load_if_exists=True,
            )
            claim(study, {**identity, "objectives": list(config.objectives), "sampler": config.sampler})
            with ProgressBar(self.budget, progress) as bar:
                self._until_done(study, storage, bar)
            return finished_trials(study, config.objectives)
        finally:
            optuna.logging.set_verbosity(verbosity)
            storage.remove_session()
            storage.engine.dispose()

    def _until_done(self, study: optuna.Study, storage: PatientStorage, bar: ProgressBar) -> None:
        told = False
        while True:
            bar.update(study, self._best(study))
            fail_stale_trials(study)
            trials = study.get_trials(deepcopy=False)
            states = [trial.state for trial in trials]
            if self.budget.is_spent(trials) and TrialState.WAITING not in states:
                if TrialState.RUNNING not in states:
                    return
                if not told:
                    count = states.count(TrialState.RUNNING)
                    storage.say(f"Nothing left to start; waiting for {count} running trials.")
                    told = True
                time.sleep(min(2.0, self.config.heartbeat / 4))
                continue
            self._one_trial(study, storage)

    def _one_trial(self, study: optuna.Study, storage: PatientStorage) -> None:
        self.current = self.checkpoints = None
        try:
            study.optimize(self._objective, n_trials=1, catch=(_Surplus,))
            if self.checkpoints is not None:
                shutil.rmtree(self.checkpoints, ignore_errors=True)
        except Exception as error:
            if storage.lost is not None:
                raise storage.lost from error
            # Optuna's word for it: "Cannot tell a FAIL trial".
            if not (isinstance(error, ValueError) and self._taken_over(study)):
                raise
            storage.say(f"Trial {self.current} was taken for dead and is run by another worker ({error}); going on.")
        except KeyboardInterrupt:
            if self.current is not None:
                _run_again(study, study.trials[self.current])
            raise

    def _objective(self, trial: optuna.Trial) -> list[float]:
        self.current = trial.number
        self.in_vain += 1
        if self._is_surplus(trial):
            raise _Surplus
        if "origin" not in trial.user_attrs:
            trial.set_user_attr("origin", trial.number)
        architecture = self.space.suggest(trial)
        trial.set_user_attr("architecture", architecture.to_dict())
        trial.set_user_attr("parameters", self.space.parameters(architecture))
        excess = self._excess(architecture)
        if excess:
            return self._infeasible(trial, excess)
        twin = self._twin(trial, architecture)
        if twin is not None:
            return _as_before(trial, twin)
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
                if f"rung.{number}" in attributes
            },
        )
        context.decide = self._decider(trial, context)
        self.group.start(architecture, context)
        in_vain, self.in_vain = self.in_vain, 0
        try:
            evaluation = self.function(architecture, context)
        except Infeasible as found:
            self.in_vain = in_vain
            return self._infeasible(trial, found.excess)
        except TrialStopped as stopped:
            _note_cost(trial, context)
            raise optuna.TrialPruned(str(stopped)) from None
        except FloatingPointError as error:
            _note_cost(trial, context)
            trial.set_user_attr("details", {"diverged": str(error)})
            return self._worst_values(architecture)
        _note_cost(trial, context)
        trial.set_user_attr("details", evaluation.details)
        missing = [name for name in self.config.objectives if name not in evaluation.values]
        if missing:
            raise SearchError(f"search.objectives: the trial measured {list(evaluation.values)}, not {missing}.")
        return [float(evaluation.values[name]) for name in self.config.objectives]

    def _decider(self, trial: optuna.Trial, context: TrialContext) -> Callable[[int, dict[str, float]], bool]:
        def decide(rung: int, values: dict[str, float]) -> bool:
            verdict = False
            try:
                _note_cost(trial, context)
                trial.set_user_attr(f"rung.{rung}", values)
                others = [
                    found
                    for other in trial.study.get_trials(deepcopy=False)
                    if other.number != trial.number
                    and other.state != TrialState.FAIL
                    and (found := rung_of(other, rung)) is not None
                ]
                verdict = goes_on(values, others, self.config.objectives, self.config.reduction_factor)
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
        if self.in_vain >= IN_VAIN:
            raise SearchError(
                f"{IN_VAIN} proposals in a row broke a constraint, the last one by {_shares(excess)}. Widen "
                f"{', '.join(excess)}."
            )
        return self._worst_values(Architecture.from_dict(trial.user_attrs["architecture"]))

    def _worst_values(self, architecture: Architecture) -> list[float]:
        known = {"parameters": float(self.space.parameters(architecture))}
        return [known.get(name, worst(name)) for name in self.config.objectives]

    def _twin(self, trial: optuna.Trial, architecture: Architecture) -> FrozenTrial | None:
        """A finished trial of the same architecture: training is seeded, so it would come out the same."""
        plain = architecture.to_dict()
        for other in trial.study.get_trials(deepcopy=False, states=FINISHED):
            if other.user_attrs.get("architecture") == plain and not is_infeasible(other):
                return other
        return None

    def _taken_over(self, study: optuna.Study) -> bool:
        histories = [t.system_attrs.get("retry_history", []) for t in study.get_trials(deepcopy=False)]
        return any(self.current in history for history in histories)

    def _best(self, study: optuna.Study) -> str:
        name = self.config.objectives[0]
        done = counted(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        if not done or is_cost(name):
            return ""
        best = (min if worst(name) > 0 else max)(trial.values[0] for trial in done)
        return f"best {name} {best:.4g}"


def _direction(objective: str) -> Literal["minimize", "maximize"]:
    return "minimize" if worst(objective) > 0 else "maximize"


def _note_cost(trial: optuna.Trial, context: TrialContext) -> None:
    trial.set_user_attr("token_flops", context.token_flops)
    trial.set_user_attr("seconds", context.seconds)


def _as_before(trial: optuna.Trial, twin: FrozenTrial) -> list[float]:
    for name, value in twin.user_attrs.items():
        if name.startswith("rung.") or name == "details":
            trial.set_user_attr(name, value)
    trial.set_user_attr("twin", twin.number)
    if twin.state == TrialState.PRUNED:
        raise optuna.TrialPruned(f"as trial {twin.number}")
    return list(twin.values)


def _run_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues a trial that was interrupted, as that of a dead worker."""
    from optuna.storages import BaseStorage

    storage: BaseStorage = study._storage
    callback = getattr(storage, "get_heartbeat_stale_trial_callback", lambda: None)()
    if callback is not None and trial.state == TrialState.FAIL:
        callback(study, trial)


def _shares(excess: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.0%} of {name}" for name, share in excess.items())


__all__ = ["run_study", "study_url"]
