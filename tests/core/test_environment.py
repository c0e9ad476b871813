"""What a run runs on, on systems that are not this one."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from hf_fsl.core.environment import peak_memory_bytes, usable_device
from hf_fsl.core.errors import UserError
from tests.helpers.launching import ROOT

_AS_ON_WINDOWS = """
import importlib, os, pkgutil, signal, sys
import hf_fsl
modules = [found.name for found in pkgutil.walk_packages(hf_fsl.__path__, "hf_fsl.")]
for name in modules:
    importlib.import_module(name)
# The libraries stay as they are on this system; what is ours is imported again.
for name in [name for name in sys.modules if name.partition(".")[0] == "hf_fsl"]:
    del sys.modules[name]
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty"):
    sys.modules[name] = None
for name in ("fork", "getuid", "geteuid", "killpg", "setsid", "getpgid", "sched_getaffinity", "uname", "O_DIRECTORY"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1"):
    delattr(signal, name)
failed = {}
for name in ["hf_fsl", *modules]:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = repr(error)
assert not failed, failed
print(len(modules))
from hf_fsl.core.environment import hardware
print(hardware())
"""


def test_every_module_can_be_imported_without_what_windows_lacks():
    done = subprocess.run([sys.executable, "-c", _AS_ON_WINDOWS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    modules, hardware = done.stdout.splitlines()
    assert int(modules) > 150 and "CPU cores" in hardware


def test_peak_memory_without_getrusage_is_that_of_psutil(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("that of the GPU is told")
    assert peak_memory_bytes() > 10_000_000
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(peak_wset=12345))
    assert peak_memory_bytes() == 12345


def test_a_device_that_is_not_there_is_refused():
    assert usable_device("cpu") == torch.device("cpu")
    assert usable_device(None).type in ("cpu", "cuda")
    for name in ["gpu", "mps" if sys.platform != "darwin" else "xpu"]:
        with pytest.raises(UserError, match=f"device='{name}' cannot be used here"):
            usable_device(name)
