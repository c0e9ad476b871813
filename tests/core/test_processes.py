"""What is launched ends with what launched it, whichever of them gets the signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.helpers.launching import ROOT

# Says who it is; ends a second after a signal, as a training that saves a checkpoint, then writes that it did.
SLOW_TO_END = """
import os, signal, sys, time
from hf_fsl.core.processes import end_with_parent
end_with_parent()
def save(number, frame):
    time.sleep(0.3)
    open(sys.argv[1], "a").write(f"saved after {number}\\n")
    os._exit(128 + number)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGHUP, save)
print("up", os.getpid(), os.getppid(), flush=True)
time.sleep(60)
"""
DEAF = """
import os, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("up", os.getpid(), child.pid, flush=True)
time.sleep(60)
"""
SUPERVISOR = """
import sys
from hf_fsl.core.exits import run_plainly
from hf_fsl.core.processes import supervised
command = [sys.executable, *sys.argv[2:]]
raise SystemExit(run_plainly(lambda: supervised(command, grace=float(sys.argv[1])), "hf-fsl"))
"""
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def start(grace, *command):
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(grace), *map(str, command)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def read_until_up(process):
    """The numbers that the launched process says."""
    for line in process.stdout:
        if line.startswith("up"):
            return [int(number) for number in line.split()[1:]]
    raise AssertionError(process.stderr.read())


def ended(*processes, within=15):
    """Whether all are gone in time (a zombie is: nobody here is its parent)."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not any(map(is_running, processes)):
            return True
        time.sleep(0.05)
    return False


def is_running(process):
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(("code", "seen"), [("3", 3), ("os.kill(os.getpid(), 9)", 137), ("0", 0)])
def test_the_exit_code_is_kept(code, seen):
    process = start(5, "-c", f"import os; raise SystemExit({code})")
    assert process.wait(30) == seen
    assert process.stderr.read() == ""


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_launched_process_once_which_has_time_to_save(number, tmp_path):
    process = start(30, "-c", SLOW_TO_END, tmp_path / "saved")
    launched, _ = read_until_up(process)
    process.send_signal(number)
    process.send_signal(number)  # as timeout(1) does, to a process and to its group
    assert process.wait(30) == 128 + number
    assert (tmp_path / "saved").read_text() == f"saved after {number:d}\n"
    assert not is_running(launched)
    said = process.stderr.read()
    assert said.count("\n") == 1 and number.name in said


@posix
@pytest.mark.parametrize(("grace", "second"), [(1, None), (60, signal.SIGINT)])
def test_what_does_not_end_is_killed_with_its_children(grace, second):
    process = start(grace, "-c", DEAF)
    launched = read_until_up(process)
    process.send_signal(signal.SIGINT)
    if second is not None:
        time.sleep(2.2)
        process.send_signal(second)
    assert process.wait(30) == 130
    assert ended(*launched, within=5)


@posix
def test_what_is_launched_ends_when_its_launcher_is_killed(tmp_path):
    process = start(30, "-c", SLOW_TO_END, tmp_path / "saved")
    launched, _ = read_until_up(process)
    process.kill()
    process.wait(30)
    assert ended(launched) and (tmp_path / "saved").read_text() == f"saved after {signal.SIGTERM:d}\n"


@posix
def test_a_script_that_was_started_by_hand_outlives_its_shell(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE", "HF_FSL"))}
    shell = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]])"
    process = subprocess.Popen(
        [sys.executable, "-c", shell, SLOW_TO_END, str(tmp_path / "saved")], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    launched, _ = read_until_up(process)
    process.wait(30)
    assert not ended(launched, within=2.5)
    os.kill(launched, signal.SIGKILL)


@posix
def test_under_nohup_a_hang_up_stays_ignored(tmp_path):
    ignoring = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{SUPERVISOR}"
    process = subprocess.Popen(
        [sys.executable, "-c", ignoring, "30", "-c", SLOW_TO_END, str(tmp_path / "saved")], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    launched, _ = read_until_up(process)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None and is_running(launched)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
