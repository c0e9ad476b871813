"""How long the processes of a launch wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from launching import ROOT

pytestmark = pytest.mark.slow  # each starts a launch of two processes

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


@pytest.mark.parametrize(("limit", "seconds"), [("default", 21_600.0), ("7200", 7200.0)])
def test_processes_wait_for_one_that_works_alone(limit, seconds):
    done = launched(limit, "2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"limit {seconds}" in done.stdout and done.stdout.count("together") == 2


def test_they_wait_no_longer_than_they_are_told_to():
    done = launched("3", "20")
    assert done.returncode != 0 and "together" not in done.stdout
    assert "imed out" in done.stderr or "imeout" in done.stderr
