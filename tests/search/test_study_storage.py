"""A study's storage: what is not its own is refused, what is away is waited for."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
import sqlalchemy

from hf_fsl.config.search import StudyConfig
from hf_fsl.search.errors import SearchError
from hf_fsl.search.report.live import read_study
from hf_fsl.search.study import StorageAway, StudyMismatch, identity, open_storage, run_study
from hf_fsl.search.study.storage import PatientStorage
from tests.helpers.study_runner import Runner


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"space": {"ranks": [0, 1]}}, r"space: .*ranks"),
        ({"objectives": ["accuracy"]}, r'objectives: \["loss", "parameters"\] there, \["accuracy"\] here'),
        ({"data": "another"}, 'data: "tiny" there, "another" here'),
        ({"backbone": "another"}, "backbone: "),
        ({"hf_fsl version": "0.0.1"}, 'hf_fsl version: ".*" there, "0.0.1" here'),
    ],
)
def test_a_study_of_something_else_is_refused_by_name(change, named, tmp_path):
    runner = Runner(tmp_path)
    runner(trials=1)
    options = {name: change.pop(name) for name in list(change) if name == "objectives"}
    about = identity(space=runner.space.to_dict(), data="tiny", backbone="none") | change
    with pytest.raises(StudyMismatch, match=named):
        runner(about, **options)
    assert len(runner.ran) == 1


def test_what_is_finished_so_far_can_be_read(tmp_path):
    tried = Runner(tmp_path)(trials=4)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    report = read_study(url)
    assert report.name == "study" and report.objectives == ["loss", "parameters"]
    assert [row.values for row in report.trials] == [t.values for t in tried] and report.front
    with pytest.raises(SearchError, match="has no study other; it has: study"):
        read_study(url, "other")
    optuna.create_study(storage=url, study_name="foreign")
    with pytest.raises(SearchError, match="no study to show without --name; it has: foreign, study"):
        read_study(url)
    with pytest.raises(SearchError, match="was not made by hf_fsl"):
        read_study(url, "foreign")


def test_workers_that_start_at_once_create_one_storage(tmp_path):
    barrier = threading.Barrier(6)

    def start(url: str) -> PatientStorage:
        barrier.wait()
        return open_storage(url)

    with ThreadPoolExecutor(6) as pool:
        for attempt in range(4):
            storages = list(pool.map(start, [f"sqlite:///{tmp_path / f'{attempt}.db'}"] * 6))
            assert [storage.get_all_studies() for storage in storages] == [[]] * 6


def test_a_study_that_others_made_is_refused(tmp_path):
    study = optuna.create_study(
        storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="study", directions=["minimize", "minimize"]
    )
    study.optimize(lambda trial: (1.0, 1.0), n_trials=1)
    with pytest.raises(StudyMismatch, match="was not made by hf_fsl"):
        Runner(tmp_path)()


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("postgresql://me:secret@127.0.0.1:9/db", StorageAway, r"me:\*\*\*@127.0.0.1:9/db does not answer"),
        ("sqlite:////no/such/folder/study.db", StorageAway, "unable to open database file"),
        ("nonsense", SearchError, "is no URL of a database"),
        ("oracle://host/db", SearchError, "driver for oracle://host/db is not installed"),
    ],
)
def test_a_storage_that_cannot_be_used_is_a_clear_error(url, error, message):
    with pytest.raises(error, match=message) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)


@pytest.fixture
def outage():
    """A database whose every statement fails while ``outage.on`` is set."""

    class Outage:
        on = False

        def __call__(self, connection, cursor, statement, *rest):
            if self.on:
                raise sqlalchemy.exc.OperationalError(statement, {}, Exception("server closed the connection"))

    switch = Outage()
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", switch)
    yield switch
    switch.on = False
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", switch)


def test_a_storage_that_goes_away_is_waited_for_and_nothing_is_lost(tmp_path, outage):
    runner, said = Runner(tmp_path), []

    def say(line):
        said.append(line)
        if "does not answer" in line:
            threading.Timer(0.6, setattr, (outage, "on", False)).start()

    def function(architecture, context):
        outage.on = len(runner.ran) == 3
        return runner.evaluate(architecture, context)

    settings = StudyConfig(trials=6, rungs=[], heartbeat=60)
    tried = run_study(runner.space, function, settings, name="s", folder=tmp_path, identity=identity(a=1), say=say)
    assert len(tried) == 6 and len(runner.ran) == 6
    assert re.search(r"does not answer \(server closed the connection\); waiting", said[0])
    assert "is back after" in said[-1]  # the worker and its heartbeat may both have met the outage


def test_a_storage_that_stays_away_ends_the_worker_after_the_time_allowed(tmp_path, outage):
    runner = Runner(tmp_path)

    def function(architecture, context):
        outage.on = True
        return runner.evaluate(architecture, context)

    settings = StudyConfig(trials=6, rungs=[], heartbeat=60, wait_for_storage=0.5)
    with pytest.raises(StorageAway, match="has not answered for .* Start it and start this worker again"):
        run_study(runner.space, function, settings, name="s", folder=tmp_path, identity={}, say=lambda line: None)


def test_an_outage_is_nobodys_death_and_silence_is(tmp_path, monkeypatch):
    """Staleness is judged by what this process saw: heartbeats that do not move while the storage answers."""
    from hf_fsl.search.study import storage as module

    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    said = []
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}", heartbeat=10, say=said.append)
    study = optuna.create_study(storage=storage)
    alive, silent, unborn = (storage.create_new_trial(study._study_id) for _ in range(3))
    storage.record_heartbeat(silent)

    def stale(seconds):
        clock[0] += seconds
        with storage.engine.begin() as connection:
            connection.execute(sqlalchemy.text("DELETE FROM trial_heartbeats WHERE trial_id = :i"), {"i": alive})
            connection.execute(
                sqlalchemy.text("INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES (:i, :t)"),
                {"i": alive, "t": f"2026-01-01 00:00:{int(clock[0]) % 60:02d}.000000"},
            )
        return set(storage._get_stale_trial_ids(study._study_id))

    assert stale(0) == stale(25) == set()
    assert stale(10) == {silent, unborn}
    storage.returned(since=0.0)
    assert stale(100) == stale(25) == set()
    assert stale(10) == {silent, unborn}
