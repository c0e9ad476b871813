"""What a run runs on: package versions, hardware, peak memory, device. Imports torch for a device alone."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from hf_fsl.core.errors import UserError

if TYPE_CHECKING:
    import torch

PACKAGES = ("hf-fsl", "torch", "transformers", "datasets", "accelerate", "peft", "evaluate", "huggingface_hub")


def versions() -> dict[str, str]:
    """Package -> installed version, Python among them; packages that are missing are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> str:
    """Accelerator and CPU in one line, as far as they are known."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = f"{cores} CPU cores ({_cpu_name()})"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {cpu}"
    return cpu


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; None: the first GPU, or the CPU where there is none.

    Raises:
        UserError: this machine, or this PyTorch, has none of that name.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={str(device)!r} cannot be used here: {reason}. Leave it out, or give cpu.") from error
    return found


def peak_memory_bytes() -> int:
    """Peak of device memory where there is a device, else of the process's resident memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
