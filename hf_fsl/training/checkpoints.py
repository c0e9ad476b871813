"""Checkpoints: atomic, pruned, free of pickle, and refused by a run they do not belong to.

A checkpoint is a folder ``checkpoint-<step>`` with ``model.safetensors`` (the trainable part),
``optimizer.safetensors``, ``rng-<process>.safetensors``, ``best.safetensors`` where a best evaluation is kept, and
``state.json``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from hf_fsl.config.loading import to_dict
from hf_fsl.config.sections import TrainingConfig
from hf_fsl.core.errors import UserError
from hf_fsl.core.files import put_in_place, sync_to_disk, temporary_beside

# Without cpu_offload, which would leave every process but the first with nothing.
_WHOLE = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be written, read, or used for this run."""


WAY_OUT = "Lower training.learning_rate, or use mixed_precision bf16 or no instead of fp16."
_MAY_CHANGE = (
    "seeds", "num_train_epochs", "max_steps",  # as the run's seed and its total of steps
    "per_device_eval_batch_size", "auto_find_batch_size", "gradient_checkpointing", "dataloader_num_workers",
    "save_steps", "save_minutes", "save_total_limit", "resume_from_checkpoint", "logging_steps", "log_with",
)  # fmt: skip


def training_identity(config: TrainingConfig) -> dict[str, Any]:
    """The fields that a run and the checkpoint it goes on from must have in common: all that change what comes out."""
    return {name: value for name, value in to_dict(config).items() if name not in _MAY_CHANGE}


class TrainingDiverged(UserError, FloatingPointError):
    """The loss, or a weight, is no number any more."""


class _Unwritable(Exception):
    """What a process could not write, said to all."""


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the trainable parameters and the buffers, on the CPU, whatever wraps the model."""
    state: dict[str, Any] = get_model_state_dict(model, options=_WHOLE)
    return {name: _kept(value) for name, value in state.items()}


def load_trainable_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Puts what :func:`trainable_state` gave back into the model."""
    weights: dict[str, Any] = dict(state)
    set_model_state_dict(model, weights, options=_WHOLE)


def save_checkpoint(
    folder: Path,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    best: dict[str, Tensor] | None,
    keep: int,
) -> Path:
    """Writes ``folder/checkpoint-<step>`` under a temporary name, renames it, removes the oldest over ``keep``.

    Later ones are of an attempt that was given up for an earlier checkpoint: they go too.

    Every process must call it.

    Raises:
        TrainingDiverged: a weight is no number; earlier checkpoints are as they were.
        CheckpointError: the files could not be written; earlier checkpoints are as they were.
    """
    target = folder / f"checkpoint-{state['step']}"
    temporary = Path()
    place = contextlib.ExitStack()
    states: tuple[dict[str, Any], dict[str, Any]] = get_state_dict(model, optimizer, options=_WHOLE)
    parameters, moments = states
    # Of what is trained: a buffer may hold an infinity, as masks do.
    broken = [n for n in moments["state"] if n in parameters and not bool(parameters[n].isfinite().all())]
    if broken:
        raise TrainingDiverged(
            f"{len(broken)} trained tensors are not finite at step {state['step']}, {broken[0]} among them: training "
            f"has diverged. {WAY_OUT} Checkpoints in {folder} are of before."
        )
    tensors = {f"{name}/{key}": _kept(v) for name, row in moments["state"].items() for key, v in row.items()}

    def begin() -> None:
        nonlocal temporary
        temporary = place.enter_context(temporary_beside(target, folder=True))

    def write() -> None:
        _write_tensors(_rng_state(), temporary / f"rng-{accelerator.process_index}.safetensors")
        if accelerator.is_main_process:
            _write_tensors({name: _kept(value) for name, value in parameters.items()}, temporary / "model.safetensors")
            _write_tensors(tensors, temporary / "optimizer.safetensors")
            if best is not None:
                _write_tensors(best, temporary / "best.safetensors")
            text = json.dumps({**state, "param_groups": moments["param_groups"]}, indent=1)
            (temporary / "state.json").write_text(text)
            sync_to_disk(temporary / "state.json")

    def finish() -> None:
        sync_to_disk(temporary)
        put_in_place(temporary, target)
        sync_to_disk(folder)

    try:
        with place:
            _together(accelerator, begin if accelerator.is_main_process else None)
            (temporary,) = broadcast_object_list([temporary])
            _together(accelerator, write)
            _together(accelerator, finish if accelerator.is_main_process else None)
    except _Unwritable as error:
        raise CheckpointError(
            f"{target} could not be written: {error}. Earlier checkpoints in {folder} are as they were; make room and "
            "go on with --training.resume_from_checkpoint auto."
        ) from error.__cause__
    if accelerator.is_main_process:
        there = list_checkpoints(folder)
        position = there.index(target) + 1
        for old in [*there[:position][:-keep], *there[position:]]:
            shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()
    return target


def load_checkpoint(
    path: Path,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
    """Restores model, optimiser and random state.

    Args:
        identity: what the checkpoint must have been written with: compared key by key.

    Returns:
        The ``state`` and the ``best`` that :func:`save_checkpoint` was given.

    Raises:
        CheckpointError: no checkpoint there, or one of another model, data set or set of hyperparameters.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        parameters = load_file(path / "model.safetensors")
        tensors = load_file(path / "optimizer.safetensors")
    except Exception as error:
        found = ", ".join(map(str, list_checkpoints(path))) or "none"
        raise CheckpointError(f"{path} is not a whole checkpoint ({error}). Checkpoints in it: {found}.") from error
    _require_identity(path, state["identity"], identity)
    expected = {name: tuple(value.shape) for name, value in trainable_state(model).items()}
    stored = {name: tuple(value.shape) for name, value in parameters.items()}
    if expected != stored:
        odd = sorted(name for name in expected.keys() | stored.keys() if expected.get(name) != stored.get(name))
        raise CheckpointError(
            f"{path} is of another model: {len(odd)} tensors differ, {odd[0]} is {stored.get(odd[0], 'missing')} "
            f"there and {expected.get(odd[0], 'missing')} here. Start anew, or name the checkpoint of this model."
        )
    groups = [{key: _tupled(key, value) for key, value in group.items()} for group in state.pop("param_groups")]
    moments: dict[str, Any] = {"state": {}, "param_groups": groups}
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition("/")
        moments["state"].setdefault(parameter, {})[key] = tensor
    weights: dict[str, Any] = dict(parameters)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=_WHOLE)
    _restore_rng(load_file(path / f"rng-{accelerator.process_index}.safetensors"))
    best = path / "best.safetensors"
    return state, load_file(best) if best.exists() else None


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name[11:]))


def find_checkpoint(folder: Path, resume_from: str | None) -> Path | None:
    """The checkpoint to go on from: a named one, the newest for ``auto``, or none.

    Raises:
        CheckpointError: the named folder does not exist.
    """
    if resume_from is None:
        return None
    if resume_from == "auto":
        return next(iter(reversed(list_checkpoints(folder))), None)
    path = Path(resume_from)
    if not path.is_dir():
        raise CheckpointError(f"resume_from_checkpoint: there is no folder {path}. Use auto, or a checkpoint-<step>.")
    return path


def _together(accelerator: Accelerator, act: Callable[[], None] | None) -> None:
    """Does something on the processes that have something to do; where it fails on one, all of them hear of it.

    None waits for what another does not come to: every process is here once, whatever became of its own part.
    """
    failure: OSError | None = None
    try:
        if act is not None:
            act()
    except OSError as error:
        failure = error
    full = failure is not None and failure.errno == errno.ENOSPC
    said = gather_object([None if failure is None else "the disk is full" if full else str(failure)])
    if any(said):
        # What the main process met first is what the others stumbled over.
        raise _Unwritable(next(filter(None, said))) from failure


def _require_identity(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    wanted, stored = _flat(json.loads(json.dumps(wanted))), _flat(stored)
    odd = [key for key in wanted.keys() | stored.keys() if wanted.get(key) != stored.get(key)]
    if odd:
        lines = "; ".join(f"{key}: {stored.get(key)!r} there, {wanted.get(key)!r} here" for key in sorted(odd))
        raise CheckpointError(
            f"{path} belongs to another run ({lines}). Set these as they were, or start anew without "
            "resume_from_checkpoint (or in another output_dir)."
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _kept(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def _tupled(key: str, value: Any) -> Any:
    return tuple(value) if isinstance(value, list) and key != "params" else value


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # what the system said, in words: "… (os error 28)"
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
    sync_to_disk(path)


def _rng_state() -> dict[str, Tensor]:
    _, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)
    _, keys, position, has_gauss, cached = numpy_state
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([float("nan") if gauss is None else gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(keys.astype(np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, cached], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_rng(state: dict[str, Tensor]) -> None:
    gauss = state["python_gauss"].item()
    random.setstate((3, tuple(state["python"].tolist()), None if gauss != gauss else gauss))
    position, has_gauss, cached = state["numpy_rest"].tolist()
    np.random.set_state(("MT19937", state["numpy"].numpy().astype(np.uint32), int(position), int(has_gauss), cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
