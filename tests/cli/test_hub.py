"""``hf-fsl hub serve`` as a process of its own, and ``hf-fsl hub seed`` against it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial

import pytest
from huggingface_hub import HfApi, constants

from hf_fsl.cli.main import main
from hf_fsl.core.paths import recipes_folder
from hf_fsl.hub.seed import MINILM
from tests.helpers.launching import ROOT


def test_a_served_hub_is_seeded_once_and_ends_when_it_is_interrupted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    command = [sys.executable, "-m", "hf_fsl", "hub", "serve", "--port", "0", "--root", str(tmp_path / "hub")]
    environment = {**os.environ, "HF_FSL_HUB_TOKEN": "secret"}
    # A shell's background job ignores interrupts, and so would what it starts.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=heeding
    ) as process:
        try:
            assert str(tmp_path / "hub") in process.stdout.readline()
            endpoint = process.stdout.readline().split("HF_ENDPOINT=")[1].split()[0]
            monkeypatch.setenv("HF_ENDPOINT", endpoint)
            monkeypatch.setenv("HF_TOKEN", "secret")
            assert main(["hub", "seed"]) == 0
            models, data = (
                {f"hf-fsl/{card.parent.name}" for card in (recipes_folder() / part).glob("*/README.md")}
                for part in ("backbones", "data")
            )
            api = HfApi(endpoint=endpoint, token="secret")
            assert {info.id for info in api.list_models()} == {MINILM, *models} and len(models) == 4
            assert {info.id for info in api.list_datasets()} == data and len(data) == 4
            first = capsys.readouterr().out.splitlines()
            assert len(first) == 9 and all("pushed" in line for line in first)
            assert main(["hub", "seed", "--endpoint", endpoint]) == 0
            assert all("already there" in line for line in capsys.readouterr().out.splitlines())
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            process.kill()


def test_a_seed_without_a_hub_and_a_port_that_is_taken_are_refused(tmp_path, monkeypatch, capsys, hub):
    monkeypatch.delenv("HF_ENDPOINT")
    assert main(["hub", "seed"]) == 2
    assert "Which Hub? Set HF_ENDPOINT" in capsys.readouterr().out
    assert main(["hub", "serve", "--root", str(tmp_path), "--port", hub.rpartition(":")[2]]) == 1
    assert "Choose another with --port" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["hub", "serve"])
    assert "--root" in capsys.readouterr().err
