"""The Accelerator of a run, with its trackers."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from hf_fsl.config import TrainingConfig
from hf_fsl.config.sections import DDP_TIMEOUT
from hf_fsl.errors import UserError
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
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
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


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, (str, int, float, bool)) else str(value)
    return flat
