"""A study: repeats exactly, stops what is behind, keeps to its budget and constraints, refuses what is not its own."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import optuna
import pytest

from hf_fsl.config.search import StudyConfig
from hf_fsl.search.errors import SearchError
from hf_fsl.search.pareto import front
from hf_fsl.search.study import (
    Evaluation,
    Infeasible,
    StudyMismatch,
    identity,
    objective,
    run_study,
)
from hf_fsl.search.study.identity import claim
from hf_fsl.search.study.liveness import Liveness
from hf_fsl.search.study.objective import goes_on
from hf_fsl.search.study.samplers import distributions, free_ordinal, parameters_of
from tests.helpers.study_runner import Runner
from tests.helpers.study_worker import quality, tiny_space


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_serial_study_repeats_and_goes_on_where_it_stopped(sampler, tmp_path):
    first_runner = Runner(tmp_path / "whole")
    whole = first_runner(sampler=sampler)
    assert whole == Runner(tmp_path / "again")(sampler=sampler)
    stopped = Runner(tmp_path / "stopped")
    first = stopped(sampler=sampler, trials=4)
    assert [t.number for t in first] == list(range(4))
    rest = Runner(tmp_path / "stopped")
    assert rest(sampler=sampler) == whole
    assert stopped.ran + rest.ran == first_runner.ran
    assert Runner(tmp_path / "other")(sampler=sampler, seed=1, trials=4) != whole[:4]


def test_a_parameter_vector_and_its_architecture_stand_for_each_other():
    space = tiny_space(2, methods=["lora", "ia3", "vera", "head"])
    rng = np.random.default_rng(0)
    for _ in range(100):
        drawn = space.sample(rng)
        values = parameters_of(drawn, space)
        assert values.keys() == distributions(space).keys()
        assert space.suggest(optuna.trial.FixedTrial(values)) == drawn


def test_nothing_finished_is_run_again(tmp_path):
    runner = Runner(tmp_path, ranks=[0, 1], scaling=[1.0], dropout=[0.0], learning_rate=[1e-3])
    tried = runner(trials=14)
    assert len(tried) == 14 and len(runner.ran) == len(set(runner.ran)) <= 8
    by_key = {t.architecture.key: t.values for t in tried}
    assert all(t.values == by_key[t.architecture.key] for t in tried)
    assert sum(t.token_flops for t in tried) == len(runner.ran)


def test_a_trial_on_the_front_of_its_rung_is_never_stopped_and_one_behind_is():
    names = ["loss", "parameters"]
    others = [{"loss": 1.0, "parameters": 10.0 + i} for i in range(9)]
    assert goes_on({"loss": 5.0, "parameters": 1.0}, others, names, 3)
    assert not goes_on({"loss": 1.0, "parameters": 16.0}, others, names, 3)
    assert goes_on({"loss": 1.0, "parameters": 12.5}, others, names, 3)
    assert not goes_on({"loss": float("nan"), "parameters": 16.0}, others, names, 3)
    assert goes_on({"loss": 9.0, "parameters": 99.0}, others[:2], names, 3)
    assert goes_on({"accuracy": 0.9}, [{"accuracy": 0.1}] * 9, ["accuracy"], 3)
    assert not goes_on({"accuracy": 0.1}, [{"accuracy": 0.9}] * 9, ["accuracy"], 3)


def test_stopped_trials_keep_their_rung_and_their_cost(tmp_path):
    tried = Runner(tmp_path)(trials=20, rungs=[0.25, 0.5], reduction_factor=3.0, sampler="random")
    stopped = [t for t in tried if t.stopped]
    assert stopped and len(stopped) < 20
    assert all(t.token_flops < 3 and t.values["loss"] == quality(t.architecture) + 1 for t in stopped)
    ended = np.array([[t.values["loss"], t.values["parameters"]] for t in tried if not t.stopped])
    everything = np.array([[quality(t.architecture), t.values["parameters"]] for t in tried])
    assert {tuple(row) for row in ended[front(ended)]} == {tuple(row) for row in everything[front(everything)]}


def test_budgets_in_seconds_and_token_flops_end_the_study(tmp_path):
    assert len(Runner(tmp_path / "s")(trials=None, seconds=7.0)) == 4
    assert len(Runner(tmp_path / "f")(trials=None, token_flops=3.0)) == 3
    assert len(Runner(tmp_path / "t")(trials=2, token_flops=3.0)) == 2


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_architectures_above_the_limit_are_not_trained(sampler, tmp_path):
    runner = Runner(tmp_path, max_parameters=150)
    tried = runner(sampler=sampler, trials=8)
    assert len(tried) == 8
    assert all(runner.space.parameters(architecture) <= 150 for architecture in runner.ran)


def test_a_constraint_that_nobody_meets_ends_the_search_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(objective, "IN_VAIN", 8)
    runner = Runner(tmp_path)

    def slow(architecture, context):
        raise Infeasible({"max_latency": 3.0})

    runner.function = slow
    with pytest.raises(SearchError, match=r"8 proposals in a row broke a constraint.*300% of max_latency"):
        runner()


def test_what_diverges_is_recorded_and_the_search_goes_on(tmp_path):
    runner = Runner(tmp_path)

    def function(architecture, context):
        if len(runner.ran) == 2:
            runner.ran.append(architecture)
            raise FloatingPointError("loss is nan")
        return runner.evaluate(architecture, context)

    runner.function = function
    tried = runner(sampler="random")
    assert len(tried) == 6
    (diverged,) = [t for t in tried if "diverged" in t.details]
    assert diverged.values["loss"] == float("inf") and diverged.values["parameters"] > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_objective_that_is_no_number_is_diverged_not_proposed_for_ever(value, tmp_path):
    runner = Runner(tmp_path)

    def function(architecture, context):
        assert len(runner.ran) < 20, "the same proposal comes again and again"
        found = runner.evaluate(architecture, context)
        if len(runner.ran) != 3:
            return found
        return Evaluation(values={**found.values, "loss": value}, details=found.details)

    runner.function = function
    tried = runner(sampler="random")
    assert len(tried) == len(runner.ran) == 6
    (diverged,) = [t for t in tried if "diverged" in t.details]
    assert diverged.number == 2 and diverged.values["loss"] == float("inf") and diverged.token_flops == 1
    assert diverged.details == {"ok": True, "diverged": f"loss is {value}"}


def test_a_failure_ends_the_worker_and_the_trial_is_tried_again_by_the_next(tmp_path):
    runner = Runner(tmp_path / "a")

    def broken(architecture, context):
        if len(runner.ran) == 3:
            raise SearchError("the disk is full")
        return runner.evaluate(architecture, context)

    runner.function = broken
    with pytest.raises(SearchError, match="the disk is full"):
        runner(sampler="random")
    runner.function = runner.evaluate
    assert [t.architecture for t in runner(sampler="random")] == [
        t.architecture for t in Runner(tmp_path / "b")(sampler="random")
    ]


def test_an_architecture_that_kills_its_workers_is_left_after_its_retries(tmp_path):
    runner, deaths = Runner(tmp_path / "a"), []
    whole = Runner(tmp_path / "b")(sampler="random", trials=7)
    deadly = whole[2].architecture

    def function(architecture, context):
        if architecture == deadly:
            deaths.append(context.folder)
            raise MemoryError
        return runner.evaluate(architecture, context)

    runner.function = function
    for _ in range(3):
        with pytest.raises(MemoryError):
            runner(sampler="random", max_retries=2)
    tried = runner(sampler="random", max_retries=2)
    assert len(deaths) == 3
    assert [t.architecture for t in tried] == [t.architecture for t in whole if t.architecture != deadly]


def test_ordinals_of_what_failed_too_often_are_not_drawn_again():
    def trial(state, ordinal=None):
        attributes = {} if ordinal is None else {"ordinal": ordinal}
        values = [1.0] if state == "COMPLETE" else None
        return optuna.trial.create_trial(
            state=optuna.trial.TrialState[state], values=values, user_attrs=attributes, params={}, distributions={}
        )

    done, dead = trial("COMPLETE", 0), trial("FAIL", 1)
    assert free_ordinal([], 3) == 0
    assert free_ordinal([done, dead], 3) == 1
    assert free_ordinal([done, dead, trial("WAITING", 1)], 3) == 2  # it runs again
    assert free_ordinal([done, *[dead] * 3], 3) == 1 and free_ordinal([done, *[dead] * 4], 3) == 2
    assert free_ordinal([done, dead], 0) == 2
    assert free_ordinal([done, trial("RUNNING"), trial("FAIL")], 3) == 2  # another worker's; a surplus one


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_an_exhausted_space_ends_the_search(sampler, tmp_path, monkeypatch):
    monkeypatch.setattr(objective, "IN_VAIN", 12)
    monkeypatch.setattr("hf_fsl.search.study.engine.IN_VAIN", 12)
    few = {"ranks": [0, 1], "scaling": [1.0], "dropout": [0.0], "learning_rate": [1e-3]}
    runner, said = Runner(tmp_path, **few), []
    settings = StudyConfig(trials=None, token_flops=1e9, rungs=[], startup=3, sampler=sampler)
    for _ in range(2):  # started again, it says the same and tries nothing
        tried = run_study(
            runner.space, runner.function, settings, name="s", folder=tmp_path, identity=identity(a=1), say=said.append
        )
    assert len(runner.ran) == len(set(runner.ran)) <= 8 and len(tried) >= 12 + len(runner.ran)
    assert len(said) == 2 and "The last 12 proposals had all been tried before: the space is exhausted" in said[0]


def test_known_architectures_before_one_that_breaks_a_constraint_are_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(objective, "IN_VAIN", 3)
    runner = Runner(tmp_path)
    known, slow = runner.space.sample(np.random.default_rng(0)), runner.space.sample(np.random.default_rng(1))

    def function(architecture, context):
        if architecture == slow:
            raise Infeasible({"max_latency": 3.0})
        return runner.evaluate(architecture, context)

    settings = StudyConfig(trials=4, rungs=[], sampler="random")
    tried = run_study(
        runner.space, function, settings, name="s", folder=tmp_path, identity={}, first=[known, known, known, slow]
    )
    assert [t.architecture for t in tried[:3]] == [known] * 3 and len(tried) == 4 and len(runner.ran) == 2


def test_the_worker_that_made_a_study_says_what_it_is_about_and_the_others_wait(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=url, study_name="study")
    late = threading.Timer(0.3, claim, (optuna.load_study(study_name="study", storage=url), {"data": "theirs"}))
    late.start()
    with pytest.raises(StudyMismatch, match='data: "theirs" there, "mine" here'):
        claim(study, {"data": "mine"}, made_it=False)
    monkeypatch.setitem(claim.__globals__, "PATIENCE", 0.2)
    left = optuna.create_study(storage=url, study_name="left")
    claim(left, {"data": "mine"}, made_it=False)  # who made it is dead
    with pytest.raises(StudyMismatch):
        claim(left, {"data": "theirs"})


def test_an_interrupted_trial_is_run_again_from_its_checkpoint(tmp_path):
    runner = Runner(tmp_path)
    folders = []

    def interrupted(architecture, context):
        folders.append(context.folder)
        if len(folders) == 3:
            context.token_flops = 7.0
            context.report(0, {"loss": 9.0, "parameters": 1.0})
            raise KeyboardInterrupt
        if len(folders) == 4:
            assert context.reported == {0: {"loss": 9.0, "parameters": 1.0}} and context.token_flops == 7.0
        return runner.evaluate(architecture, context)

    runner.function = interrupted
    with pytest.raises(KeyboardInterrupt):
        runner(rungs=[0.5], reduction_factor=50.0)
    tried = runner(rungs=[0.5], reduction_factor=50.0)
    assert len(tried) == 6 and folders[3] == folders[2]
    assert [t.number for t in tried] == [0, 1, *range(3, 7)]


class Killed(BaseException):
    """What Optuna does not catch, as it does not catch SIGKILL: the trial is left running."""


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_killed_worker_alone_comes_to_the_trials_of_one_that_was_not(sampler, tmp_path, monkeypatch):
    options = {
        "trials": 14,
        "rungs": [0.5],
        "sampler": sampler,
        "startup": 4,
        "heartbeat": 30,
        "reduction_factor": 2.0,
    }
    whole = Runner(tmp_path / "whole")(**options)
    assert sampler == "nsga2" or sum(t.stopped for t in whole) > 0
    # At which call of each moment the worker dies, as a trial is asked for, proposed, trained, reported, done.
    deaths = {"worker": 4, "architecture": 6, "training": 8, "rung.0": 11, "goes_on.0": 12, "trained": 9}

    def reach(moment):
        if moment in deaths:
            deaths[moment] -= 1
            if not deaths[moment]:
                del deaths[moment]
                raise Killed

    class Dying(Runner):
        def evaluate(self, architecture, context):
            reach("training")
            found = super().evaluate(architecture, context)
            reach("trained")
            return found

    setter = optuna.trial.Trial.set_user_attr

    def set_user_attr(trial, key, value):
        if key.startswith("worker"):
            reach("worker")
        setter(trial, key, value)
        reach(key)

    monkeypatch.setattr(optuna.trial.Trial, "set_user_attr", set_user_attr)
    runner, found = Dying(tmp_path / "cut"), None
    while found is None:
        with contextlib.suppress(Killed):
            found = runner(**options)
    assert not deaths and not list((tmp_path / "cut" / "workers").iterdir())

    def plain(tried):
        return [(t.architecture, t.values, t.stopped, t.details) for t in tried]

    assert plain(found) == plain(whole)


def test_who_is_alive_is_known_by_its_lock(tmp_path):
    mine, other = Liveness(tmp_path, whole=True), Liveness(tmp_path, whole=True)
    assert not mine.is_dead(other.name) and not mine.is_dead(mine.name) and not mine.is_dead("elsewhere")
    assert not mine.is_dead(None)  # the other may be about to say so
    other._lock.release()
    assert mine.is_dead(other.name) and mine.is_dead(None)
    assert not Liveness(tmp_path / "shared", whole=False).is_dead(None)
    mine.clean()
    assert not list((tmp_path / "workers").iterdir())
