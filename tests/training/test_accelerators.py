"""How long the processes of a launch wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from hf_fsl.core.errors import UserError
from hf_fsl.training import make_accelerator
from tests.helpers.launching import ROOT, own_accelerator_state

slow = pytest.mark.slow  # starts a launch of two processes

_WAITING = """
import sys, time
from hf_fsl.training import make_accelerator
limits = {"ddp_timeout": float(sys.argv[1])} if sys.argv[1] != "default" else {}
accelerator = make_accelerator(**limits)
assert accelerator.num_processes == 2
from torch import distributed, device
limit = distributed.group.WORLD._get_backend(device("cpu")).options._timeout.total_seconds()
if accelerator.is_main_process:
    print("limit", limit, flush=True)
    time.sleep(float(sys.argv[2]))
accelerator.wait_for_everyone()
accelerator.end_training()
print("together", flush=True)
"""


def launched(*arguments):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", "localhost:0", "--no-python", sys.executable, "-c", _WAITING, *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


@slow
@pytest.mark.parametrize(("limit", "seconds"), [("default", 21_600.0), ("7200", 7200.0)])
def test_processes_wait_for_one_that_works_alone(limit, seconds):
    done = launched(limit, "2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"limit {seconds}" in done.stdout and done.stdout.count("together") == 2


@slow
def test_they_wait_no_longer_than_they_are_told_to():
    done = launched("3", "20")
    assert done.returncode != 0 and "together" not in done.stdout
    assert "imed out" in done.stderr or "imeout" in done.stderr


@pytest.mark.parametrize(
    ("precision", "environment", "said"),
    [
        ("fp16", {}, "mixed_precision: fp16: needs a GPU"),
        (None, {"ACCELERATE_MIXED_PRECISION": "fp16"}, "mixed_precision: fp16: needs a GPU"),
        ("no", {"ACCELERATE_USE_FSDP": "true"}, "FSDP: needs a GPU"),
        ("no", {"ACCELERATE_USE_CPU": "False", "CUDA_VISIBLE_DEVICES": "0"}, "CUDA_VISIBLE_DEVICES=0: needs a GPU"),
        ("no", {"ACCELERATE_USE_CPU": "True", "CUDA_VISIBLE_DEVICES": "0"}, None),
        ("no", {"ACCELERATE_USE_CPU": "False", "CUDA_VISIBLE_DEVICES": ""}, None),
        ("no", {"CUDA_VISIBLE_DEVICES": "0"}, None),
    ],
)
def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu(precision, environment, said, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for name in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU", "ACCELERATE_USE_FSDP", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with own_accelerator_state():
        if said is None:
            assert make_accelerator(precision).device.type == "cpu"
        else:
            with pytest.raises(UserError, match=said):
                make_accelerator(precision)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with own_accelerator_state(), pytest.raises(UserError, match="4 processes .* has 2 .*--num_processes 2"):
        make_accelerator("no")
