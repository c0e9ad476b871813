"""Short trainings of a tiny model, and what is left of them."""

from __future__ import annotations

import multiprocessing

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import PrepareForLaunch, patch_environment

from hf_fsl.config import TrainingConfig
from hf_fsl.core.task import Task
from hf_fsl.training import training_loop
from hf_fsl.training.losses import ClassificationLoss

TASK = Task(modality="text", label_names=("a", "b", "c"))
BASE = TrainingConfig(
    learning_rate=1e-2, max_steps=8, per_device_train_batch_size=4, warmup_steps=2, logging_steps=1, weight_decay=0.01
)


def run(model, split, folder, config=BASE, *, losses=None, evaluate=None, **options):
    rows = losses if losses is not None else []

    def log(values, step):
        if "train/loss" in values:
            rows.append((step, values["train/loss"]))

    torch.manual_seed(23)
    return training_loop(
        model, split, config, Accelerator(cpu=True), options.pop("loss", ClassificationLoss()), seed=0, folder=folder,
        head=["classifier"], log=log, evaluate=evaluate, **options,
    )  # fmt: skip


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def assert_same(one, other, atol=0.0):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=atol, rtol=0.0 if atol == 0 else 1e-5)


def on_two_processes(work, folder, *arguments):
    """What ``work(*arguments)`` returns on each of two processes of one group."""
    forking = multiprocessing.get_context("fork")
    answers = forking.Queue()
    with patch_environment(  # as accelerate's debug_launcher does, which would wait for ever
        world_size=2, master_addr="127.0.0.1", master_port="29500", accelerate_mixed_precision="no",
        accelerate_debug_rdv_file=str(folder / "rendezvous"), accelerate_use_cpu="yes", gloo_socket_ifname="lo",
    ):  # fmt: skip
        launcher = PrepareForLaunch(_answer, debug=True)
        processes = [
            forking.Process(target=launcher, args=(rank, work, answers, arguments), daemon=True) for rank in range(2)
        ]
        for process in processes:
            process.start()
        try:
            return [answers.get(timeout=60) for _ in processes]
        finally:
            for process in processes:
                process.kill()


def _answer(work, answers, arguments):
    AcceleratorState._reset_state(reset_partial_state=True)  # that of the process this one was forked from
    answers.put(work(*arguments))
