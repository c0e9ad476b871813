"""Runs that a signal ends: saved, said how they go on, and gone on as if nothing had been."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator

from hf_fsl.training import RunLog, TrainingInterrupted, list_checkpoints, read_log, start_accelerator, training_loop
from hf_fsl.training import signals as signals_module
from hf_fsl.training.losses import ClassificationLoss
from hf_fsl.training.signals import noted_signals
from tests.helpers.launching import own_accelerator_state
from tests.helpers.tiny_runs import BASE, assert_same, on_two_processes, weights

LATER = dataclasses.replace(BASE, resume_from_checkpoint="auto")


def signalled(number, at, times=1):
    """A log that sends a signal to this process at a step."""

    def log(values, step):
        if step == at and "train/loss" in values:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return log


def trained(model, split, folder, log=None, config=BASE, **options):
    torch.manual_seed(23)
    return training_loop(
        model, split, config, Accelerator(cpu=True), ClassificationLoss(), seed=0, folder=folder, head=["classifier"],
        log=log, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "step"),  # within an epoch, at its end, and at the end of training
    [(signal.SIGINT, 3), (signal.SIGINT, 5), (signal.SIGINT, 8), (signal.SIGTERM, 3), (signal.SIGHUP, 3)],
)
def test_a_signal_saves_and_ends_training_which_resumes_to_the_same_weights(make, split, tmp_path, number, step):
    whole, evaluated = make(dropout=0.2), []
    trained(whole, split, tmp_path / "whole", evaluate=lambda _: {"accuracy": 0.5})
    before = signal.getsignal(number)
    with pytest.raises(
        TrainingInterrupted, match=f"{number.name}: .* step {step} of 8.*resume_from_checkpoint auto"
    ) as end:
        trained(make(dropout=0.2), split, tmp_path / "cut", signalled(number, step, times=2),
                evaluate=lambda _: evaluated.append(1) or {"accuracy": 0.5})  # fmt: skip
    assert end.value.exit_code == 128 + number and signal.getsignal(number) == before
    assert [path.name for path in list_checkpoints(tmp_path / "cut")] == [f"checkpoint-{step}"]
    resumed, said = make(dropout=0.2), []
    progress = trained(resumed, split, tmp_path / "cut", config=LATER, say=said.append,
                       evaluate=lambda _: evaluated.append(1) or {"accuracy": 0.5})  # fmt: skip
    assert_same(weights(resumed), weights(whole))
    assert progress.step == 8 and len(evaluated) == 2  # one an epoch, none of them twice
    assert said[0] == f"Resumed from {tmp_path / 'cut' / f'checkpoint-{step}'}, of 8 steps."


def test_a_later_ctrl_c_does_not_wait(make, split, tmp_path, monkeypatch):
    monkeypatch.setattr(signals_module, "SAME", -1.0)
    with pytest.raises(KeyboardInterrupt) as end:
        trained(make(), split, tmp_path, signalled(signal.SIGINT, 3, times=2))
    assert not isinstance(end.value, TrainingInterrupted) and not list_checkpoints(tmp_path)


def test_what_ignores_a_signal_goes_on_ignoring_it(make, split, tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert trained(make(), split, tmp_path, signalled(signal.SIGINT, 3)).step == 8
    finally:
        signal.signal(signal.SIGINT, before)


def _agree():
    accelerator = Accelerator(cpu=True)
    with noted_signals() as signals:
        if accelerator.process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return signals.agreed(accelerator, accelerator.is_main_process)


def test_processes_agree_on_a_signal_that_one_of_them_received(tmp_path):
    assert on_two_processes(_agree, tmp_path) == [(signal.SIGTERM, True)] * 2


def test_a_recipe_ends_with_one_line_and_the_code_of_the_signal(tmp_path):
    script = tmp_path / "recipe.py"
    script.write_text(
        "import sys\nfrom hf_fsl.config import ZeroShotNLIConfig, run_recipe\n"
        "from hf_fsl.training import TrainingInterrupted\n"
        "def main(config):\n    raise TrainingInterrupted(15, 'SIGTERM: saved')\n"
        "sys.argv = ['x', '--model.model_name_or_path', 'm', '--data.path', 'd', '--data.text_column', 't']\n"
        "run_recipe(main, ZeroShotNLIConfig, None)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "SIGTERM: saved\n"), done


def test_a_checkpoint_is_due_by_time_too(make, split, tmp_path):
    config = dataclasses.replace(BASE, save_minutes=1e-9, save_total_limit=3)
    trained(make(), split, tmp_path, config=config)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-7", "checkpoint-8"]


def test_what_is_not_resumed_is_said(make, split, tmp_path):
    said = []
    trained(make(), split, tmp_path, config=LATER, say=said.append)
    assert said[0] == f"Nothing to resume: no checkpoint in {tmp_path}. Training starts anew."
    assert said[1].startswith("Only 8 optimiser steps are planned; fewer than 50")
    said.clear()
    trained(make(), split, tmp_path, config=dataclasses.replace(BASE, max_steps=50), say=said.append)
    (line,) = said
    assert "checkpoint-8 is of an earlier run and is removed" in line


def test_the_log_of_a_resumed_run_has_every_row_once(make, split, tmp_path):
    log_file, config = tmp_path / "metrics.jsonl", dataclasses.replace(BASE, save_steps=3)
    scores = {"accuracy": 0.5}

    def attempt(last, **changes):
        """A run that is killed after a step was logged, as by a power cut."""
        asked = dataclasses.replace(config, **changes)
        with own_accelerator_state():
            accelerator = start_accelerator(asked, tmp_path, "project", {"warmup_steps": asked.warmup_steps})

            class Killed(RunLog):
                def __call__(self, values, step):
                    super().__call__(values, step)
                    if step == last:
                        raise InterruptedError

            with contextlib.suppress(InterruptedError):
                training_loop(
                    make(), split, asked, accelerator, ClassificationLoss(), seed=0, folder=tmp_path / "checkpoints",
                    log=Killed(accelerator, "seed-0/"), evaluate=lambda _: scores,
                )  # fmt: skip
            accelerator.end_training()
        rows = read_log(log_file)
        configs = [row["config"] for row in rows if "config" in row]
        return configs, [(row["step"], *sorted(row)[:1]) for row in rows if "config" not in row]

    first = "seed-0/train/epoch"
    assert attempt(5)[1] == [(step, first) for step in range(1, 6)]
    with log_file.open("a") as file:
        file.write('{"time": 1.0, "st')  # cut short
    configs, rows = attempt(None, resume_from_checkpoint="auto")
    evaluations = [(5, "seed-0/validation/accuracy"), (8, "seed-0/validation/accuracy")]
    assert sorted(rows) == sorted([(step, first) for step in range(1, 9)] + evaluations)
    assert len(configs) == 1
    configs, rows = attempt(2, warmup_steps=3)  # anew: nothing of what went before
    assert rows == [(1, first), (2, first)] and configs == [{"warmup_steps": 3}]
