"""Workers as processes of their own on a real PostgreSQL: one is killed, the server goes away, nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest

from hf_fsl.search.study import open_storage
from tests.helpers import study_worker
from tests.helpers.launching import ROOT
from tests.helpers.postgres import Postgres, find_program

WORKER = Path(study_worker.__file__)
TRIALS = 8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_program("initdb") is None, reason="no PostgreSQL on this machine (apt-get install postgresql)"
    ),
]


@pytest.fixture(scope="module")
def server():
    server = Postgres()
    server.start()
    yield server
    server.stop()
    server.remove()


class Workers:
    """Worker processes of one study, killed at the latest when the test ends."""

    def __init__(self, url: str, folder: Path, name: str) -> None:
        self.url, self.folder, self.name, self.running = url, folder, name, []
        folder.mkdir(exist_ok=True)

    def start(self, seconds: float) -> subprocess.Popen:
        command = [sys.executable, str(WORKER), self.url, str(self.folder), self.name, str(seconds)]
        paths = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(self.folder)}
        process = subprocess.Popen(command, env=paths, stderr=subprocess.PIPE, text=True)
        self.running.append(process)
        return process

    def steps(self) -> list[dict]:
        path = self.folder / "steps.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, condition, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not condition(self.steps()):
            assert time.monotonic() < end, self.steps()
            assert all(process.poll() in (None, 0, -9) for process in self.running), self.errors()
            time.sleep(0.02)

    def finish(self) -> list[str]:
        said = [process.communicate(timeout=180)[1] for process in self.running]
        for process, text in zip(self.running, said, strict=True):
            assert process.returncode in (0, -9), text
        return said

    def errors(self) -> list[str]:
        return [process.stderr.read() for process in self.running if process.poll() not in (None, 0, -9)]

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name=self.name, storage=open_storage(self.url)).trials


@pytest.fixture
def workers(server, tmp_path, request):
    started = Workers(server.url, tmp_path / "study", request.node.name)
    yield started
    for process in started.running:
        process.kill()
        process.wait()


def require_whole(workers: Workers) -> None:
    """The budget was kept; what was finished was finished once, and never run again."""
    trials = workers.trials()
    finished = [t for t in trials if t.state.is_finished() and t.state != optuna.trial.TrialState.FAIL]
    assert len(finished) == TRIALS and not [t for t in trials if not t.state.is_finished()]
    origins = Counter(t.user_attrs["origin"] for t in finished)
    assert set(origins.values()) == {1}
    ended = Counter(row["origin"] for row in workers.steps() if row["event"] == "end")
    assert set(ended) == {t.user_attrs["origin"] for t in finished if "twin" not in t.user_attrs}
    assert set(ended.values()) == {1}


def test_the_trial_of_a_killed_worker_is_run_again_from_its_checkpoint(workers):
    victim, other = workers.start(0.1), workers.start(0.1)

    def second_half(rows):
        mine = [row for row in rows if row["pid"] == victim.pid]
        return mine and mine[-1]["event"] == "step" and mine[-1]["step"] == 7

    workers.wait_for(second_half)
    victim.kill()
    victim.wait()
    killed = [row for row in workers.steps() if row["pid"] == victim.pid][-1]
    assert killed["event"] == "step", "the trial was over when its worker was killed"
    workers.finish()
    require_whole(workers)
    assert {row["pid"] for row in workers.steps()} == {victim.pid, other.pid}
    again = [row for row in workers.steps() if row["origin"] == killed["origin"] and row["pid"] == other.pid]
    assert [row["event"] for row in again] == ["start"] + ["step"] * 5 + ["end"]
    assert again[0]["step"] == 5, "from its checkpoint, not from the start"
    dead = [t for t in workers.trials() if t.state == optuna.trial.TrialState.FAIL]
    assert [t.user_attrs["origin"] for t in dead] == [killed["origin"]]
    (retried,) = [t for t in workers.trials() if t.system_attrs.get("retry_history") == [dead[0].number]]
    assert retried.params == dead[0].params and retried.user_attrs["token_flops"] == 10.0


def test_a_server_that_goes_away_in_the_middle_is_waited_for(workers, server):
    first, second = workers.start(0.1), workers.start(0.1)
    workers.wait_for(lambda rows: len({row["pid"] for row in rows}) == 2 and rows[-1]["event"] == "step")
    server.stop()
    time.sleep(8)  # longer than three heartbeats: by the server's clock every trial is dead now
    assert first.poll() is None and second.poll() is None
    server.start()
    said = workers.finish()
    require_whole(workers)
    assert not [t for t in workers.trials() if t.state == optuna.trial.TrialState.FAIL]
    assert all("does not answer" in text and "is back after" in text for text in said), said
