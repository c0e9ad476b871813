"""Short trainings of a tiny model, and what is left of them."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from hf_fsl.config import TrainingConfig
from hf_fsl.losses import ClassificationLoss
from hf_fsl.tasks import Task
from hf_fsl.training import train

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
    return train(
        model, split, config, Accelerator(cpu=True), options.pop("loss", ClassificationLoss()), seed=0, folder=folder,
        head=["classifier"], log=log, evaluate=evaluate, **options,
    )  # fmt: skip


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def assert_same(one, other, atol=0.0):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=atol, rtol=0.0 if atol == 0 else 1e-5)
