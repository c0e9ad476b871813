"""LoRA against full fine-tuning of the same stock class on supersense: accuracy on test, paired, over seeds.

    python benchmarks/transfer.py [--seeds 0 1 2]

How each method draws its batches is chosen by its mean accuracy on validation over the seeds; of the test predictions
that a run keeps only those of the chosen setting are looked at. Learning rates and alpha had been chosen on validation
with seed 0 before (results/transfer_learning_rates.json), then label smoothing and epochs. Finished runs are kept in
results/transfer_runs.jsonl, so that a stopped benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from common import RESULTS, write_result

from hf_fsl.config import FineTuneConfig, load_config
from hf_fsl.data import load_splits
from hf_fsl.hub.seed import minilm_folder
from hf_fsl.metrics import paired_difference, seeds_interval
from hf_fsl.training import start_accelerator
from hf_fsl.training.baselines import baseline_predictions
from hf_fsl.training.fine_tune import fine_tune_seed

ROOT = Path(__file__).parents[1]
DATA = ROOT / "recipes" / "data" / "supersense"
CONFIG = ROOT / "recipes" / "configs" / "fine_tune" / "supersense.yaml"
RUNS = RESULTS / "transfer_runs.jsonl"


PRECISION = ["--training.mixed_precision", "auto"]
SMOOTHING = "--training.label_smoothing_factor 0.1"
SETTINGS = [SMOOTHING, f"{SMOOTHING} --training.train_sampling_strategy random"]
METHODS = {
    "lora": "--adapter.lora_alpha 24 --training.learning_rate 2e-3",
    "none": "--adapter.method full --training.learning_rate 2e-4",
}
GRID = {method: [f"{own} {setting}".split() for setting in SETTINGS] for method, own in METHODS.items()}
"""Overrides of the config among which validation chooses; ``none`` is full fine-tuning."""


def run(overrides: list[str], seed: int, splits: Any, accelerator: Accelerator) -> dict[str, Any]:
    """One training run, or what is known of it: validation accuracy, and which test examples are right."""
    known = [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []
    for row in known:
        if row["overrides"] == overrides and row["seed"] == seed and row["right"]:
            return row
    with tempfile.TemporaryDirectory() as folder:
        places = ["--data.path", str(DATA), "--model.model_name_or_path", str(minilm_folder()), *PRECISION]
        config = load_config(FineTuneConfig, CONFIG, [*places, "--output_dir", folder, *overrides])
        trained = fine_tune_seed(config, splits, accelerator, seed)
    record = trained.outcome.record
    labels = np.asarray(splits.test["label"])
    row = {
        "overrides": overrides,
        "seed": seed,
        "validation": record.validation["accuracy"],
        "trainable_share": trained.count.share,
        "mixed_precision": accelerator.mixed_precision,
        "seconds": record.wall_seconds,
        "right": (trained.outcome.logits.argmax(-1) == labels).astype(int).tolist(),
    }
    RESULTS.mkdir(exist_ok=True)
    with RUNS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


def main(seeds: list[int]) -> None:
    places = ["--data.path", str(DATA), "--model.model_name_or_path", str(minilm_folder()), *PRECISION]
    config = load_config(FineTuneConfig, CONFIG, places)
    splits = load_splits(config.data)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = start_accelerator(config.training, Path(folder), "transfer", {})
    tuning, right = {}, {}
    for method, options in GRID.items():
        rows = {" ".join(o): [run(o, seed, splits, accelerator) for seed in seeds] for o in options}
        tuning[method] = {o: [row["validation"] for row in found] for o, found in rows.items()}
        best = max(rows, key=lambda o, method=method: float(np.mean(tuning[method][o])))
        right[method] = np.array([row["right"] for row in rows[best]])
        share, seconds = rows[best][0]["trainable_share"], float(np.median([row["seconds"] for row in rows[best]]))
        tuning[method] |= {"chosen": best, "trainable_share": share, "median_seconds": seconds}
    probe = baseline_predictions("linear_probe", splits, config.model) == np.asarray(splits.test["label"])
    accuracies = {method: values.mean(1).tolist() for method, values in right.items()}
    difference = paired_difference(right["lora"].mean(0), right["none"].mean(0), 5000)
    over_probe = paired_difference(right["lora"].mean(0), np.asarray(probe), 5000)
    write_result(
        "transfer",
        {
            "seeds": seeds,
            "tuning_on_validation": tuning,
            "test_accuracy": {
                method: {"each": values, **vars(seeds_interval(values))} for method, values in accuracies.items()
            },
            "linear_probe_accuracy": float(np.mean(probe)),
            "lora_minus_full": vars(difference),
            "lora_minus_linear_probe": vars(over_probe),
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    main(parser.parse_args().seeds)
