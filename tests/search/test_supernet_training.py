"""Training of a supernet: it lowers the loss, stops early, goes on where it was, and shares its work."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import model_inputs
from model_splits import split_of
from planted import MemorySplit
from safetensors.torch import load_file

import hf_fsl
from hf_fsl.search.data import SearchData
from hf_fsl.search.space import Architecture, SearchSpace
from hf_fsl.search.supernet import (
    MemberEvaluator,
    SupernetConfig,
    train_supernet,
)


@pytest.mark.parametrize("initialization", ["gradient", "random"])
def test_training_lowers_the_loss_and_leaves_the_backbone_alone(initialization, model_and_sites):
    model, sites = model_and_sites("bert", num_labels=2)
    inputs = model_inputs("bert", 64)
    labels = (inputs["input_ids"] == 7).any(1).long()
    data = SearchData(
        MemorySplit({n: v[:40] for n, v in inputs.items()}, labels[:40]),
        MemorySplit({n: v[40:] for n, v in inputs.items()}, labels[40:]),
    )
    space = SearchSpace.from_dict({"ranks": [0, 1, 4]}, sites)
    config = SupernetConfig(
        max_steps=30, learning_rate=1e-2, per_device_train_batch_size=40, initialization=initialization,
        early_stopping_patience=None, eval_steps=5, head_steps=3,
    )  # fmt: skip
    given = copy.deepcopy(model.state_dict())
    trained = train_supernet(model, data, space, config)
    again = train_supernet(model, data, space, config)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, given[name], atol=0, rtol=0)
    frozen = {n.replace(".base.", "."): v for n, v in trained.supernet.model.state_dict().items()}
    for name, value in given.items():
        if not name.startswith("classifier"):
            torch.testing.assert_close(frozen[name], value, atol=0, rtol=0)
    largest = trained.supernet.largest
    train_losses = MemberEvaluator(trained.supernet, data.train).losses(largest)
    assert train_losses.mean() < 0.5
    np.testing.assert_array_equal(train_losses, MemberEvaluator(again.supernet, data.train).losses(largest))
    assert trained.progress.evaluation["loss"] == pytest.approx(-trained.progress.best)
    assert trained.meter.gradient_steps == 30 * 4 + 3 + (initialization == "gradient")
    assert trained.meter.by_phase["supernet"] == trained.meter.flops > 0


def test_training_stops_early_on_the_largest_member(model_and_sites):
    model, sites = model_and_sites("bert")
    data = SearchData(split_of("bert", 30, seed=1), split_of("bert", 60, seed=2))
    space = SearchSpace.from_dict({"ranks": [0, 8]}, sites)
    config = SupernetConfig(
        max_steps=400, learning_rate=1e-2, eval_steps=2, early_stopping_patience=2, reorder="never",
    )  # fmt: skip
    trained = train_supernet(model, data, space, config)
    assert trained.progress.stopped and trained.progress.step < 200
    best = trained.evaluator.losses(trained.supernet.largest).mean()
    assert best == pytest.approx(trained.progress.evaluation["loss"], abs=1e-6)


@pytest.mark.parametrize("what", ["supernet", "alone"])
def test_interrupted_training_goes_on_as_if_it_had_not_been(what, model_and_sites, tmp_path, monkeypatch):
    from hf_fsl.search import alone

    model, sites = model_and_sites("bert")
    data = SearchData(split_of("bert", 30, seed=1), split_of("bert", 16, seed=2))
    space = SearchSpace.from_dict({"ranks": [0, 1, 4]}, sites)
    config = SupernetConfig(max_steps=12, learning_rate=1e-2, per_device_train_batch_size=8, eval_steps=3)
    architecture = Architecture.uniform(2, 2, steps=12)

    def run(folder):
        if what == "supernet":
            trained = train_supernet(model, data, space, config, folder=folder)
            return trained.evaluator.losses(trained.supernet.largest)
        return alone.train_alone(model, data, sites, architecture, config, folder=folder).validation_losses

    whole, calls = run(None), []
    from hf_fsl.training.update import Step

    made = Step.__call__

    def dies(self, group):
        calls.append(group)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return made(self, group)

    monkeypatch.setattr(Step, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    np.testing.assert_array_equal(run(tmp_path), whole)
    assert len(calls) == 8 + 12 - 6


@pytest.mark.slow
def test_two_processes_train_the_supernet_of_one(tmp_path):
    """The same examples a step, whichever process has them."""
    worker = Path(__file__).with_name("supernet_worker.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(hf_fsl.__file__).parents[1])}
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file"]
    presets = worker.parents[2] / "recipes" / "accelerate_configs"
    states = []
    for preset, batch_size in (("cpu", 16), ("cpu_2proc", 8)):
        file = tmp_path / f"{preset}.safetensors"
        command = [*launcher, str(presets / f"{preset}.yaml"), str(worker), str(batch_size), str(file)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        states.append(load_file(file))
    assert {name[0] for name in states[0]} == {"1"} and {name[0] for name in states[1]} == {"2"}
    for name, value in states[0].items():
        torch.testing.assert_close(states[1]["2" + name[1:]], value, atol=1e-3, rtol=1e-3)
