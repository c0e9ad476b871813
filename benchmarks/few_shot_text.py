"""Few-shot text classification on supersense: speed against accuracy, frozen, adapted and SetFit."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS
from datasets import load_dataset

from hf_fsl.hub.seed import minilm_folder

ROOT = Path(__file__).parents[1]
DATA = ROOT / "recipes" / "data" / "supersense"
RUNS = RESULTS / "few_shot_text_runs.jsonl"
SHOTS = 8
SETFIT = {"setfit-20": 20, "setfit-1": 1}


def support_rows(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Rows of ``shots`` examples of each class, drawn without replacement."""
    generator = np.random.default_rng(seed)
    return np.concatenate(
        [generator.choice(np.flatnonzero(labels == c), shots, replace=False) for c in np.unique(labels)]
    )


def known_runs() -> dict[tuple[int, str], dict[str, Any]]:
    lines = RUNS.read_text().splitlines() if RUNS.exists() else []
    return {(row["seed"], row["method"]): row for row in map(json.loads, lines)}


def keep(row: dict[str, Any], right: np.ndarray) -> None:
    """Appends a run; ``right`` is kept as bits in hexadecimal, so that methods can be compared example by example."""
    row |= {"accuracy": float(right.mean()), "right": np.packbits(right).tobytes().hex()}
    RESULTS.mkdir(exist_ok=True)
    with RUNS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print({key: value for key, value in row.items() if key != "right"}, flush=True)


def run_setfit(python: str, method: str, seed: int, data: Any) -> None:
    rows = support_rows(np.asarray(data["train"]["label"]), SHOTS, seed)
    support = data["train"].select(rows)
    job = {
        "model": str(minilm_folder()), "texts": support["text"][:], "labels": support["label"][:],
        "queries": data["test"]["text"][:], "num_iterations": SETFIT[method], "seed": seed, "threads": 1,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "job.json"), Path(folder, "result.json")
        given.write_text(json.dumps(job))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        script = Path(__file__).with_name("setfit_run.py")
        subprocess.run([python, str(script), str(given), str(result)], check=True, env=environment)
        got = json.loads(result.read_text())
    right = np.asarray(got.pop("predictions")) == np.asarray(data["test"]["label"])
    keep({"seed": seed, "method": method, "threads": 1, **got}, right)


def main(seeds: list[int], setfit_python: str) -> None:
    data = load_dataset(str(DATA))
    for seed in seeds:
        for method in SETFIT:
            if (seed, method) not in known_runs():
                run_setfit(setfit_python, method, seed, data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--setfit-python", required=True)
    given = parser.parse_args()
    main(given.seeds, given.setfit_python)
