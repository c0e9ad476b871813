"""Runs cut up, killed, resumed, and out of disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import resource
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hf_fsl.config import AdapterConfig
from hf_fsl.models.adapters import attach_adapter
from hf_fsl.training import (
    CheckpointError,
    list_checkpoints,
    training_loop,
)
from hf_fsl.training import checkpoints as checkpoints_module
from hf_fsl.training.checkpoints import TrainingDiverged
from hf_fsl.training.losses import ClassificationLoss
from tests.helpers.tiny_runs import BASE, assert_same, on_two_processes, run, weights


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_run_continues_to_the_same_losses_and_weights(make, split, tmp_path, accumulation):
    config = dataclasses.replace(BASE, save_steps=3, save_total_limit=5, gradient_accumulation_steps=accumulation)
    whole, losses = make(dropout=0.2), []
    run(whole, split, tmp_path / "whole", config, losses=losses)
    folder, halved = tmp_path / "halved", []
    run(make(dropout=0.2), split, folder, config, losses=halved, evaluate=None)
    assert halved == losses
    for late in list_checkpoints(folder)[1:]:
        checkpoints_module.shutil.rmtree(late)
    resumed, rest = make(dropout=0.2), []
    torch.manual_seed(999)
    run(resumed, split, folder, dataclasses.replace(config, resume_from_checkpoint="auto"), losses=rest)
    assert rest == losses[3:]
    assert_same(weights(resumed), weights(whole))


def test_resume_of_a_finished_run_trains_no_further(make, split, tmp_path):
    first = make()
    run(first, split, tmp_path)
    again, losses = make(), []
    progress = run(again, split, tmp_path, dataclasses.replace(BASE, resume_from_checkpoint="auto"), losses=losses)
    assert (progress.step, losses) == (8, [])
    assert_same(weights(again), weights(first))


def test_checkpoints_are_pruned_and_free_of_pickle(make, split, tmp_path):
    run(make(), split, tmp_path, dataclasses.replace(BASE, save_steps=2, save_total_limit=2))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-8"]
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"model.safetensors", "optimizer.safetensors", "rng-0.safetensors", "state.json"}


def test_checkpoint_of_another_model_is_refused(make, split, tmp_path, tiny_model):
    run(make(), split, tmp_path)
    other = attach_adapter(tiny_model("bert"), AdapterConfig(r=4), ["classifier"])
    with pytest.raises(CheckpointError, match="of another model: .* tensors differ"):
        run(other, split, tmp_path, dataclasses.replace(BASE, resume_from_checkpoint="auto"))


def test_checkpoint_of_another_run_is_refused(make, split, tmp_path):
    run(make(), split, tmp_path, identity={"learning_rate": 1e-2})
    config = dataclasses.replace(BASE, resume_from_checkpoint="auto")
    with pytest.raises(CheckpointError, match=r"learning_rate: 0.01 there, 0.1 here"):
        run(make(), split, tmp_path, config, identity={"learning_rate": 0.1})


def test_broken_or_missing_checkpoint_is_a_clear_error(make, split, tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        run(make(), split, tmp_path, dataclasses.replace(BASE, resume_from_checkpoint="auto"))
    with pytest.raises(CheckpointError, match="there is no folder"):
        run(make(), split, tmp_path, dataclasses.replace(BASE, resume_from_checkpoint=str(tmp_path / "nowhere")))


@contextmanager
def no_file_longer_than(size):
    """What a full disk is to safetensors, without filling one: the system refuses to write on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_that_takes_no_more_leaves_the_previous_checkpoint_usable(make, split, tmp_path, monkeypatch):
    config = dataclasses.replace(BASE, save_steps=3)
    whole = make()
    run(whole, split, tmp_path / "whole", config)
    real = checkpoints_module.save_file

    def disk_fills_up(tensors, path):
        with no_file_longer_than(2000) if "checkpoint-6" in str(path) else nullcontext():
            real(tensors, path)

    monkeypatch.setattr(checkpoints_module, "save_file", disk_fills_up)
    folder = tmp_path / "full"
    with pytest.raises(CheckpointError, match="File too large .*resume_from_checkpoint auto") as caught:
        run(make(), split, folder, config)
    assert isinstance(caught.value.__cause__.__cause__, SafetensorError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert [path.name for path in folder.iterdir()] == ["checkpoint-3"]
    monkeypatch.setattr(checkpoints_module, "save_file", real)
    resumed = make()
    run(resumed, split, folder, dataclasses.replace(config, resume_from_checkpoint="auto"))
    assert_same(weights(resumed), weights(whole))


def test_full_disk_is_called_by_its_name(make, split, tmp_path, monkeypatch):
    with pytest.raises(SafetensorError) as caught, no_file_longer_than(2000):
        save_file({"a": torch.zeros(10_000)}, tmp_path / "a.safetensors")
    said = str(caught.value).replace("File too large (os error 27)", "No space left on device (os error 28)")
    assert "os error 28" in said

    def full(tensors, path):
        raise SafetensorError(said)

    monkeypatch.setattr(checkpoints_module, "save_file", full)
    with pytest.raises(CheckpointError, match="could not be written: the disk is full. Earlier"):
        run(make(), split, tmp_path / "run")


def _save_where_the_main_process_cannot(folder):
    model = torch.nn.Linear(2, 2)
    accelerator, optimizer = Accelerator(cpu=True), torch.optim.AdamW(model.parameters())
    if accelerator.is_main_process:
        folder.touch()  # so that no folder can be made there
    accelerator.wait_for_everyone()
    state = {"step": 1, "identity": {}}
    try:
        checkpoints_module.save_checkpoint(folder, accelerator, model, optimizer, state, None, 1)
    except CheckpointError as error:
        return accelerator.num_processes, str(error)


def test_processes_hear_of_what_another_could_not_write(tmp_path):
    ((count, message),) = set(on_two_processes(_save_where_the_main_process_cannot, tmp_path, tmp_path / "file"))
    assert count == 2 and "checkpoint-1 could not be written: [Errno 17] File exists" in message


def test_weights_that_are_no_numbers_never_take_the_place_of_good_ones(make, split, tmp_path):
    config, model = dataclasses.replace(BASE, save_steps=1, save_total_limit=1, logging_steps=100), make()
    inner, steps = model.get_base_model().forward, []

    def spoilt(*args, **inputs):
        steps.append(1)
        if len(steps) == 4:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad)[0, 0] = float("nan")
        return inner(*args, **inputs)

    model.get_base_model().forward = spoilt
    with pytest.raises(TrainingDiverged, match="training has diverged. Lower training.learning_rate"):
        run(model, split, tmp_path, config)
    (kept,) = list_checkpoints(tmp_path)
    assert all(value.isfinite().all() for value in load_file(kept / "model.safetensors").values())
    bare = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(bare.parameters())
    bare(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        bare.bias[0] = float("inf")
    state = {"step": 9, "identity": {}}
    with pytest.raises(TrainingDiverged, match="1 trained tensors are not finite at step 9, bias among them"):
        checkpoints_module.save_checkpoint(tmp_path, Accelerator(cpu=True), bare, optimizer, state, None, 1)
    assert list_checkpoints(tmp_path) == [kept]


def test_going_back_to_an_earlier_checkpoint_drops_the_later_ones_and_keeps_what_is_written(make, split, tmp_path):
    config = dataclasses.replace(BASE, save_steps=2, save_total_limit=4)
    run(make(), split, tmp_path, config)
    assert [path.name[11:] for path in list_checkpoints(tmp_path)] == ["2", "4", "6", "8"]
    back = dataclasses.replace(
        config, save_total_limit=1, resume_from_checkpoint=str(tmp_path / "checkpoint-2"), logging_steps=1
    )

    def interrupted(values, step):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training_loop(
            make(), split, back, Accelerator(cpu=True), ClassificationLoss(), seed=0, folder=tmp_path,
            head=["classifier"], log=interrupted,
        )  # fmt: skip
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-4"]


def test_checkpoint_is_on_the_disk_before_it_has_its_name(make, split, tmp_path, monkeypatch):
    events, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda number: events.append(Path(os.readlink(f"/proc/self/fd/{number}")).name))
    monkeypatch.setattr(os, "replace", lambda old, new: (events.append("replace"), replace(old, new)))
    run(make(), split, tmp_path)
    files = ["rng-0.safetensors", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert events[:4] == files
    assert re.fullmatch(r"\.checkpoint-8\..*\.tmp", events[4])
    assert events[5:] == ["replace", tmp_path.name]


def test_best_weights_survive_a_resume(make, split, tmp_path):
    scores = iter([0.9, 0.1, 0.2])
    config = dataclasses.replace(BASE, max_steps=6, eval_strategy="steps", eval_steps=2, save_steps=4)
    model, seen = make(), []

    def evaluate(current):
        seen.append(weights(model))
        return {"accuracy": next(scores)}

    run(model, split, tmp_path, config, evaluate=evaluate)
    checkpoints_module.shutil.rmtree(tmp_path / "checkpoint-6")
    again = make()
    config = dataclasses.replace(config, resume_from_checkpoint="auto")
    progress = run(again, split, tmp_path, config, evaluate=lambda _: {"accuracy": 0.2})
    assert progress.best_step == 2
    assert_same(weights(again), seen[0])


def test_state_file_is_plain_json(make, split, tmp_path):
    run(make(), split, tmp_path)
    state = json.loads((tmp_path / "checkpoint-8" / "state.json").read_text())
    assert state["progress"]["step"] == 8
