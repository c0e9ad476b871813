"""The launcher of ``hf-fsl run``: scripts in place of recipes, through Accelerate's real launch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from hf_fsl.cli import launch
from hf_fsl.cli.main import main
from hf_fsl.core.paths import recipes_folder
from tests.helpers.launching import ROOT

RECIPE = """
import os, sys, time
from dataclasses import dataclass
from hf_fsl.config import run_recipe
from hf_fsl.core.errors import UserError

@dataclass(frozen=True, kw_only=True)
class Config:
    wait: bool = False
    output_dir: str = "outputs"

    def problems(self):
        return ()

def main(config):
    print("up", os.getpid(), os.getppid(), flush=True)
    if config.wait:
        time.sleep(60)
    raise UserError("the rule, and the way out")

if __name__ == "__main__":
    run_recipe(main, Config, None)
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return [str(path), "--output_dir", str(tmp_path / "out")]


def launcher(preset, *arguments):
    presets = recipes_folder() / "accelerate_configs"
    options = ["--config_file", str(presets / f"{preset}.yaml"), "--main_process_port", "0"]
    return subprocess.Popen(
        [sys.executable, "-m", "hf_fsl.cli.launcher", *options, *arguments], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def workers(process, count):
    found = []
    for line in process.stdout:
        found += [int(line.split()[1])] if line.startswith("up") else []
        if len(found) == count:
            return found
    raise AssertionError(process.stderr.read())


def test_an_error_of_the_recipe_is_the_last_word(recipe):
    process = launcher("cpu_2proc", *recipe)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert set(said.splitlines()) == {"error: the rule, and the way out"} and said.count("\n") <= 2  # one a process


def test_its_exit_code_is_kept(recipe):
    process = launcher("cpu", *recipe, "--wayt", "true")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "wayt: unknown field" in said and "Traceback" not in said


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("preset", "count", "number"), [("cpu", 1, signal.SIGINT), ("cpu_2proc", 2, signal.SIGTERM)])
def test_a_signal_ends_all_processes_of_a_launch_without_a_traceback(preset, count, number, recipe):
    process = launcher(preset, *recipe, "--wait", "true")
    launched = workers(process, count)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in said and said.count("\n") <= 1
    assert not any(psutil.pid_exists(worker) for worker in launched)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_recipe_ends_when_accelerate_launch_is_killed(recipe):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    process = subprocess.Popen(
        [*command, str(recipes_folder() / "accelerate_configs" / "cpu.yaml"), *recipe, "--wait", "true"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    (launched,) = workers(process, 1)
    process.terminate()  # of which Accelerate dies, and tells nobody
    process.wait(30)
    deadline = time.monotonic() + 15
    while psutil.pid_exists(launched) and psutil.Process(launched).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("preset", ["single_gpu", "ddp"])
def test_gpus_that_are_not_there_are_not_replaced_by_the_cpu(preset, recipe, capsys, monkeypatch):
    from hf_fsl.cli.launcher import main as launch_here

    monkeypatch.setattr("subprocess.Popen", lambda *command, **options: pytest.fail("something was started"))
    config = recipes_folder() / "accelerate_configs" / f"{preset}.yaml"
    monkeypatch.setenv("HF_FSL_PARENT", "")
    monkeypatch.setattr("os.environ", dict(os.environ))
    assert launch_here(["--config_file", str(config), *recipe]) == 1
    said = capsys.readouterr().err
    assert f"{preset}.yaml asks for GPUs" in said and "--accelerate-config cpu" in said


RUN = ["run", "fine_tune", "--config", "digits.smoke"]


def test_run_refuses_before_it_starts_anything(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(launch, "supervised", lambda command: pytest.fail("something was started"))
    (tmp_path / "file").write_text("")
    assert main([*RUN, "--output_dir", str(tmp_path / "file" / "run")]) == 1
    assert "output_dir: nothing can be written to" in capsys.readouterr().err
    assert main([*RUN, "--accelerate-config", "nowhere"]) == 1
    assert "there is no nowhere. Give a file, or one of cpu, cpu_2proc" in capsys.readouterr().err
    assert main([*RUN, "--hub.push_to_hub", "true", "--hub.hub_model_id", "digits"]) == 2
    assert "hub.hub_model_id: user/name" in capsys.readouterr().err


def test_run_hands_over_to_the_launcher_and_returns_its_exit_code(tmp_path, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(launch, "supervised", lambda command: started.append(command) or 7)
    assert main([*RUN, "--output_dir", str(tmp_path)]) == 7
    shown = capsys.readouterr().out.split()
    assert shown[2] == "accelerate.commands.launch" and started[0][2] == "hf_fsl.cli.launcher"
    assert started[0][3:] == shown[3:]
