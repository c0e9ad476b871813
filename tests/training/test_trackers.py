"""The trackers of others, where they are installed, without a network: ``pip install "hf_fsl[tracking]"``."""

from __future__ import annotations

import json
import sqlite3

import pytest

from hf_fsl.config import TrainingConfig
from hf_fsl.training import read_log, start_accelerator
from tests.helpers.launching import own_accelerator_state

VALUES = [({"train/loss": 0.5}, 4), ({"train/loss": 0.25, "train/epoch": 1.0}, 6), ({"validation/accuracy": 0.75}, 6)]


@pytest.fixture
def track(tmp_path, monkeypatch):
    """Logs VALUES with a tracker; gives the run's folder. The working folder is another one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def log(*names):
        with own_accelerator_state():
            config = TrainingConfig(log_with=list(names))
            accelerator = start_accelerator(config, tmp_path / "run", "project", {"training": {"seeds": [0]}})
            for values, step in VALUES:
                accelerator.log(values, step=step)
            accelerator.end_training()
        assert [row["step"] for row in read_log(tmp_path / "run" / "metrics.jsonl")[1:]] == [4, 6, 6]
        assert not list((tmp_path / "elsewhere").iterdir())
        return tmp_path / "run"

    return log


def test_wandb_writes_into_the_folder_of_the_run(track, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    (written,) = track("wandb").glob("wandb/offline-run-*/*.wandb")
    content = written.read_bytes()
    for expected in (b"train/loss", b"validation/accuracy", b"training.seeds"):
        assert expected in content


def test_trackio_writes_into_its_own_folder(track, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    import trackio.sqlite_storage
    import trackio.utils

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for module in (trackio.utils, trackio.sqlite_storage):  # which read the variable when they are imported
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    track("trackio")
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select step, metrics from metrics order by id").fetchall()
        ((config,),) = connection.execute("select config from configs").fetchall()
    assert [(json.loads(metrics), step) for step, metrics in rows] == VALUES
    assert json.loads(config)["training.seeds"] == "[0]"


def test_a_row_that_was_cut_short_costs_nothing_else(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo{"step": 3}\n{"step": 4}\n{"step"')
    assert [row["step"] for row in read_log(path)] == [1, 4]
