"""Recipes through the real launcher, and the command line, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST = 900.0
"""Seconds after which a process is taken to hang; it and its children then print where they are."""


def launch(environment, output, config, *overrides, recipe="fine_tune", preset="cpu"):
    command = [
        sys.executable, "-m", "accelerate.commands.launch",
        "--config_file", f"recipes/accelerate_configs/{preset}.yaml", "--main_process_port", "0",
        f"recipes/{recipe}.py", "--config", str(config), "--output_dir", str(output), *overrides,
    ]  # fmt: skip
    return run_process(command, environment)


def hf_fsl(environment, *arguments, stdin=None):
    return run_process([sys.executable, "-m", "hf_fsl.cli.main", *arguments], environment, stdin)


def run_process(command, environment, stdin=None):
    """A finished process with what it printed; AssertionError with the stacks of all its processes where it hangs."""
    process = subprocess.Popen(
        command, cwd=ROOT, env={**environment, "PYTHONFAULTHANDLER": "1"}, text=True, start_new_session=True,
        stdin=subprocess.PIPE if stdin is not None else None, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        said = process.communicate(stdin, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
        out, errors = process.communicate()
        raise AssertionError(f"{command} hangs after {LONGEST} s:\n{out[-3000:]}\n{errors[-6000:]}") from None
    except BaseException:  # Ctrl-C does not reach another session
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, process.returncode, *said)
