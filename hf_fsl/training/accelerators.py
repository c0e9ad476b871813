"""The Accelerator of a run, with its trackers."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from hf_fsl.config.sections import DDP_TIMEOUT, TrainingConfig
from hf_fsl.core.errors import UserError
from hf_fsl.training.precision import use_bf16
from hf_fsl.training.trackers import JSONLTracker


def make_accelerator(
    mixed_precision: str | None = None, *, ddp_timeout: float = DDP_TIMEOUT, **options: Any
) -> Accelerator:
    """An Accelerator whose processes are one group on CPUs too.

    Without an accelerator Accelerate's multi-process launch must be told so; else each process takes itself for all.

    Args:
        mixed_precision: ``auto`` is bf16 where the processor multiplies it natively, else ``no``; None: as launched.
        ddp_timeout: seconds for which the processes wait for each other; what fails after that is the collective.

    Raises:
        UserError: a GPU was asked for and there is none, or more processes than there are.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    _require_devices(mixed_precision)
    if mixed_precision == "auto":
        mixed_precision = "bf16" if use_bf16("auto", device or torch.device("cpu")) else "no"
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=ddp_timeout))
    return Accelerator(cpu=device is None, mixed_precision=mixed_precision, kwargs_handlers=[patience], **options)


def start_accelerator(
    config: TrainingConfig, folder: Path, project: str, settings: dict[str, Any], *, ddp_timeout: float = DDP_TIMEOUT
) -> Accelerator:
    """An Accelerator that logs to ``folder/metrics.jsonl`` and to the trackers of ``config.log_with``.

    Args:
        folder: tensorboard and wandb put their files below it (wandb's elsewhere where WANDB_DIR says so); trackio
            has one place for all runs, TRACKIO_DIR, where ``trackio show`` finds them.
        project: the trackers' name for this run.
        settings: the run's config, nested; trackers are given it flat.
        ddp_timeout: as for ``make_accelerator``.

    Raises:
        UserError: a tracker of ``log_with`` is not installed.
    """
    from accelerate.tracking import get_available_trackers

    available = {str(tracker) for tracker in get_available_trackers()}
    missing = [name for name in config.log_with if name not in available]
    if missing:
        raise UserError(
            f"training.log_with: {', '.join(missing)} cannot be imported. Install it "
            '(pip install "hf_fsl[tracking]") or leave it out; metrics.jsonl is written in any case.'
        )
    accelerator = make_accelerator(
        config.mixed_precision,
        ddp_timeout=ddp_timeout,
        log_with=[JSONLTracker(folder / "metrics.jsonl"), *config.log_with],
        project_dir=str(folder),
    )
    own = {"wandb": {"dir": str(folder)}} if "WANDB_DIR" not in os.environ else {}
    folder.mkdir(parents=True, exist_ok=True)  # wandb goes to a temporary folder where there is none
    accelerator.init_trackers(project, config=_flat(settings), init_kwargs=own)
    return accelerator


def _require_devices(mixed_precision: str | None) -> None:
    """Without a GPU Accelerate takes the CPU for what was asked of GPUs, or fails deep inside."""
    environment = os.environ
    precision = mixed_precision or environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if torch.accelerator.is_available():
        here, processes = torch.accelerator.device_count(), int(environment.get("LOCAL_WORLD_SIZE", 1))
        if processes > here and environment.get("ACCELERATE_USE_CPU", "false").lower() != "true":
            raise UserError(
                f"{processes} processes were launched on this machine, which has {here} of the accelerators that "
                f"they need one each of. Launch with --num_processes {here}, or less."
            )
        return
    asked = [
        f"mixed_precision: {precision}" if precision in ("fp16", "fp8") else "",
        "FSDP" if environment.get("ACCELERATE_USE_FSDP", "false").lower() == "true" else "",
        _named_gpus(environment.get("CUDA_VISIBLE_DEVICES", "")),
    ]
    if any(asked):
        raise UserError(
            f"{', '.join(filter(None, asked))}: needs a GPU, and PyTorch finds none on this machine. On CPUs: "
            "mixed_precision no, bf16 or auto, and the Accelerate config recipes/accelerate_configs/cpu.yaml."
        )


def _named_gpus(visible: str) -> str:
    """The GPUs that ``accelerate launch --gpu_ids`` or the user chose; empty where they are hidden on purpose."""
    by_hand = os.environ.get("ACCELERATE_USE_CPU", "true").lower() == "true"  # or a launch on CPUs
    return "" if by_hand or visible in ("", "-1", "none") else f"CUDA_VISIBLE_DEVICES={visible}"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, (str, int, float, bool)) else str(value)
    return flat
