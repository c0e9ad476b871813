"""The training loop against transformers' Trainer + PEFT, and against a bare PyTorch loop: time, memory, losses.

    python benchmarks/training_loop.py [--steps 20] [--rounds 7]

The same model (LoRA on MiniLM), the same batches in the same order, the same hyperparameters. Each measurement is a
process of its own, since peak memory is a process's; time is that of the training call alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import ratio, write_result

CONTESTANTS = ("hf_fsl", "trainer", "bare")
DATA = Path(__file__).parents[1] / "recipes" / "data" / "supersense"
LEARNING_RATE, BATCH, SEED = 1e-3, 32, 0


def prepare(steps: int) -> tuple[Any, Any, Any]:
    """The adapted model without dropout, the encoded split, and the batches in their order."""
    import torch
    from accelerate.utils import set_seed

    from hf_fsl.config import AdapterConfig, DataConfig, ModelConfig
    from hf_fsl.data import load_splits
    from hf_fsl.data.encoding import EncodedSplit
    from hf_fsl.hub.seed import minilm_folder
    from hf_fsl.models.adapters import attach_adapter
    from hf_fsl.models.backbones.classification import load_classifier
    from hf_fsl.training.batches import TrainingBatches

    set_seed(SEED)
    splits = load_splits(DataConfig(path=str(DATA), text_column="text"))
    classifier = load_classifier(ModelConfig(model_name_or_path=str(minilm_folder())), splits.task)
    model = attach_adapter(classifier.model, AdapterConfig(), classifier.head)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # Trainer draws from the same random state for other things too
    split = EncodedSplit(splits.train, splits.task, classifier.processor, 128)
    order = TrainingBatches(len(split), BATCH, SEED)
    return model, split, list(order)[:steps]


def run_hf_fsl(steps: int) -> tuple[list[float], float]:
    from accelerate import Accelerator

    from hf_fsl.config import TrainingConfig
    from hf_fsl.training import training_loop
    from hf_fsl.training.losses import ClassificationLoss

    model, split, _ = prepare(steps)
    losses: list[float] = []
    config = TrainingConfig(
        learning_rate=LEARNING_RATE,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        logging_steps=1,
        warmup_steps=0,
    )
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        training_loop(
            model, split, config, Accelerator(cpu=True), ClassificationLoss(), seed=SEED, folder=Path(folder) / "c",
            head=["classifier"], log=lambda row, step: losses.append(row["train/loss"]),
        )  # fmt: skip
    return losses, time.perf_counter() - started


def run_trainer(steps: int) -> tuple[list[float], float]:
    from torch.utils.data import DataLoader
    from transformers import Trainer, TrainingArguments

    model, split, batches = prepare(steps)

    def collate(items: Any) -> Any:
        batch = split.collate(items)
        batch.pop("index")
        return batch

    losses: list[float] = []

    class SameOrder(Trainer):
        def training_step(self, *inputs: Any, **options: Any) -> Any:
            loss = super().training_step(*inputs, **options)
            losses.append(loss.item())  # the log rounds them
            return loss

        def get_train_dataloader(self) -> Any:
            return self.accelerator.prepare(DataLoader(split, batch_sampler=batches, collate_fn=collate))

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, learning_rate=LEARNING_RATE, max_steps=steps, per_device_train_batch_size=BATCH, logging_steps=1,
            max_grad_norm=1.0, weight_decay=0.0, lr_scheduler_type="linear", use_cpu=True, report_to=[], seed=SEED,
            save_strategy="steps", save_steps=steps, remove_unused_columns=False,
        )  # fmt: skip
        trainer = SameOrder(model, arguments, train_dataset=split)
        started = time.perf_counter()
        trainer.train()
        taken = time.perf_counter() - started
    return losses, taken


def run_bare(steps: int) -> tuple[list[float], float]:
    import torch
    from transformers import get_linear_schedule_with_warmup

    model, split, batches = prepare(steps)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    started = time.perf_counter()
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)
    losses = []
    model.train()
    for indices in batches:
        batch = split.collate([split[index] for index in indices])
        labels = batch.pop("labels")
        batch.pop("index")
        loss = torch.nn.functional.cross_entropy(model(**batch).logits, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, time.perf_counter() - started


def one(name: str, steps: int) -> None:
    """Runs one contestant in this process and prints what it measured as JSON."""
    run = {"hf_fsl": run_hf_fsl, "trainer": run_trainer, "bare": run_bare}[name]
    losses, seconds = run(steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"losses": losses, "seconds": seconds, "peak_bytes": peak}))


def main(steps: int, rounds: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    for number in range(rounds):
        turn = number % len(CONTESTANTS)
        for name in CONTESTANTS[turn:] + CONTESTANTS[:turn]:
            command = [sys.executable, __file__, "--one", name, "--steps", str(steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
        print(f"round {number + 1}/{rounds}: " + ", ".join(f"{n} {r[-1]['seconds']:.2f} s" for n, r in found.items()))
    seconds = {name: [row["seconds"] for row in rows] for name, rows in found.items()}
    peaks = {name: [row["peak_bytes"] for row in rows] for name, rows in found.items()}
    ours = np.array(found["hf_fsl"][0]["losses"])
    write_result(
        "training_loop",
        {
            "steps": steps,
            "wall_time_over_trainer": ratio(seconds["hf_fsl"], seconds["trainer"]),
            "wall_time_over_bare_loop": ratio(seconds["hf_fsl"], seconds["bare"]),
            "peak_memory_over_trainer": ratio(peaks["hf_fsl"], peaks["trainer"]),
            "largest_loss_difference_to_trainer": float(np.abs(ours - found["trainer"][0]["losses"]).max()),
            "largest_loss_difference_to_bare_loop": float(np.abs(ours - found["bare"][0]["losses"]).max()),
            "median_seconds": {name: float(np.median(taken)) for name, taken in seconds.items()},
            "median_peak_bytes": {name: float(np.median(peak)) for name, peak in peaks.items()},
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", choices=CONTESTANTS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.steps)
    else:
        main(options.steps, options.rounds)
