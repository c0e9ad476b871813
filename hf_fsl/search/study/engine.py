"""A study: architectures proposed, run and recorded, by any number of workers on one storage."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from accelerate import Accelerator
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from hf_fsl.config.search import StudyConfig
from hf_fsl.search.space.architecture import Architecture
from hf_fsl.search.space.space import SearchSpace
from hf_fsl.search.study.budget import ProgressBar, counted
from hf_fsl.search.study.group import Group
from hf_fsl.search.study.identity import claim
from hf_fsl.search.study.liveness import Liveness
from hf_fsl.search.study.objective import IN_VAIN, Objective, Surplus, is_exhausted
from hf_fsl.search.study.samplers import SpaceSampler
from hf_fsl.search.study.storage import PatientStorage, fail_stale_trials, open_storage
from hf_fsl.search.study.trials import TrialFunction, Tried, finished_trials, is_cost, worst


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

    Returns when nobody runs a trial of it any more; a worker that died in the meantime is noticed (at once if it
    shared ``folder``), and its trial run again. What is finished is never run again: a study that was stopped or
    killed goes on where it was, and one worker alone comes to the same trials as if it had not been. Every process of
    a launch calls it; trials are run by all of them together.

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
    sampler = SpaceSampler(config.sampler, space, config.seed, config.startup, first, config.max_retries)
    worker = _Worker(Objective(space, function, config, group, Path(folder), sampler), say)
    finished = worker.work(name, identity, progress)
    group.finish()
    return list(group.share(finished))


def study_url(config: StudyConfig, folder: str | Path) -> str:
    """Where the study is kept."""
    return config.storage or f"sqlite:///{(Path(folder) / 'study.db').absolute()}"


class _Worker:
    """The main process of a launched group."""

    def __init__(self, objective: Objective, say: Callable[[str], None] | None) -> None:
        self.objective, self.say = objective, say
        self.config, self.folder, self.budget = objective.config, objective.folder, objective.budget

    def work(self, name: str, identity: Mapping[str, Any], progress: bool) -> list[Tried]:
        config = self.config
        self.folder.mkdir(parents=True, exist_ok=True)
        storage = open_storage(
            study_url(config, self.folder), config.heartbeat, config.max_retries, config.wait_for_storage, self.say
        )
        liveness = Liveness(self.folder, whole=config.storage is None)
        storage.is_dead, self.objective.worker = liveness.is_dead, liveness.name
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            study, mine = self._open(name, storage)
            claim(study, {**identity, "objectives": list(config.objectives), "sampler": config.sampler}, mine)
            with ProgressBar(self.budget, progress) as bar:
                self._until_done(study, storage, bar)
            liveness.clean()
            return finished_trials(study, config.objectives)
        finally:
            liveness.release()
            optuna.logging.set_verbosity(verbosity)
            storage.remove_session()
            storage.engine.dispose()

    def _open(self, name: str, storage: PatientStorage) -> tuple[optuna.Study, bool]:
        """The study, and whether this worker made it: of several that start at once, one does."""
        sampler = self.objective.sampler
        try:
            directions = [_direction(name) for name in self.config.objectives]
            return optuna.create_study(
                storage=storage, sampler=sampler, study_name=name, directions=directions
            ), True  # fmt: skip
        except optuna.exceptions.DuplicatedStudyError:
            return optuna.load_study(storage=storage, sampler=sampler, study_name=name), False

    def _until_done(self, study: optuna.Study, storage: PatientStorage, bar: ProgressBar) -> None:
        told = False
        while True:
            bar.update(study, self._best(study))
            fail_stale_trials(study)
            trials = study.get_trials(deepcopy=False)
            states = [trial.state for trial in trials]
            spent = self.budget.is_spent(trials)
            if (spent or is_exhausted(trials)) and TrialState.WAITING not in states:
                if TrialState.RUNNING not in states:
                    if not spent:
                        storage.say(
                            f"The last {IN_VAIN} proposals had all been tried before: the space is exhausted, and the "
                            "search ends before its budget is spent."
                        )
                    return
                if not told:
                    count = states.count(TrialState.RUNNING)
                    storage.say(f"Nothing left to start; waiting for {count} running trials.")
                    told = True
                time.sleep(min(2.0, self.config.heartbeat / 4))
                continue
            self._one_trial(study, storage)

    def _one_trial(self, study: optuna.Study, storage: PatientStorage) -> None:
        objective = self.objective
        objective.current = objective.checkpoints = None
        try:
            study.optimize(objective, n_trials=1, catch=(Surplus,))
            if objective.checkpoints is not None:
                shutil.rmtree(objective.checkpoints, ignore_errors=True)
        except Exception as error:
            if storage.lost is not None:
                raise storage.lost from error
            # Optuna's word for it: "Cannot tell a FAIL trial".
            if not (isinstance(error, ValueError) and self._taken_over(study)):
                raise
            storage.say(f"Trial {objective.current} was taken for dead, another worker runs it ({error}); going on.")
        except KeyboardInterrupt:
            if objective.current is not None:
                _run_again(study, study.trials[objective.current])
            raise

    def _taken_over(self, study: optuna.Study) -> bool:
        histories = [t.system_attrs.get("retry_history", []) for t in study.get_trials(deepcopy=False)]
        return any(self.objective.current in history for history in histories)

    def _best(self, study: optuna.Study) -> str:
        name = self.config.objectives[0]
        done = counted(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        if not done or is_cost(name):
            return ""
        best = (min if worst(name) > 0 else max)(trial.values[0] for trial in done)
        return f"best {name} {best:.4g}"


def _direction(objective: str) -> Literal["minimize", "maximize"]:
    return "minimize" if worst(objective) > 0 else "maximize"


def _run_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues a trial that was interrupted, as that of a dead worker, however often it was before: it killed nobody."""
    if trial.state == TrialState.FAIL:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            RetryHeartbeatStaleTrialCallback(max_retry=None)(study, trial)


__all__ = ["run_study", "study_url"]
