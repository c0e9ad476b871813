"""``hf-fsl demo`` from end to end, its training cut short."""

from __future__ import annotations

import os
import re
import signal
import socket

import pytest

from hf_fsl.cli import demo
from hf_fsl.cli.demo import KINDS, LABELS, SENTENCES
from hf_fsl.cli.main import main
from hf_fsl.core.processes import Ended
from hf_fsl.core.records import RunRecord
from hf_fsl.hub.verify import require_verified
from tests.helpers.launching import hf_fsl


@pytest.mark.slow
def test_the_demo_runs_all_its_rungs_and_leaves_no_hub_behind(tmp_path):
    folder = tmp_path / "demo"
    done = hf_fsl(dict(os.environ), "demo", "--folder", str(folder), "--training.max_steps", "2", longest=1150)
    assert done.returncode == 0, done.stderr[-4000:]
    zero_shot = [line for line in done.stdout.splitlines() if line.startswith(SENTENCES[0])]
    assert [line.split()[-2] in LABELS.split(",") for line in zero_shot] == [True, True]  # entailed; nearest name
    assert zero_shot[0].split()[-2] == "animal"
    pictures = re.findall(r"^/\S+ +(.+) [01]\.\d{3}$", done.stdout, re.MULTILINE)  # long paths are cut
    assert len(pictures) == 4 and set(pictures) <= set(KINDS.split(","))
    for sentence in SENTENCES:  # by the few-shot model, and by the fine-tuned one
        loaded_back = re.findall(rf"^  {re.escape(sentence)} +\S.* \([01]\.\d\d\)$", done.stdout, re.MULTILINE)
        assert len(loaded_back) == 2, (sentence, done.stdout)
    accuracy = re.search(r"accuracy on 600 test texts: (0\.\d+)", done.stdout)
    assert accuracy is not None and float(accuracy[1]) > 0.4  # 24 classes: guessing gives 0.04
    for run in ("run", "search"):
        require_verified(folder / run / "bundle")
    assert RunRecord.load(folder / "run" / "run_record.json").config["training"]["max_steps"] == 2
    endpoint = re.search(r"A Hub on this machine: http://127\.0\.0\.1:(\d+)", done.stdout)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(endpoint[1])), timeout=5)
    assert done.stdout.splitlines()[-1].endswith(f"{folder / 'run' / 'bundle' / 'README.md'}")


def test_a_folder_of_something_else_is_not_emptied(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--folder", str(tmp_path)]) == 1
    assert "holds something that is not a demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [(lambda: 7, 7, "The demo ends here: -m hf_fsl predict "), (lambda: ended(signal.SIGTERM), 143, "")],
)
def test_a_step_that_fails_or_is_ended_ends_the_demo(ends, code, said, tmp_path, capsys, monkeypatch):
    steps = []
    monkeypatch.setattr("hf_fsl.hub.seed.seed", lambda *where, **options: None)
    monkeypatch.setattr(demo, "supervised", lambda command, environment: steps.append(command) or ends())
    assert main(["demo", "--folder", str(tmp_path / "demo")]) == code
    assert len(steps) == 1
    errors = capsys.readouterr().err
    assert said in errors and errors.count("\n") == (1 if said else 0)


def ended(number):
    raise Ended(number)
