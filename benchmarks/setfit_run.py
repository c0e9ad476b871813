"""One SetFit training run, for ``few_shot_text.py``: executed by an interpreter that has setfit and not hf_fsl.

python benchmarks/setfit_run.py JOB.json RESULT.json
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import setfit
import torch
import transformers
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments


def main(job: dict[str, Any]) -> dict[str, Any]:
    """SetFit's own defaults (batch 16, one epoch, its learning rate and head); only the number of pairs is set."""
    torch.set_num_threads(job["threads"])
    model = SetFitModel.from_pretrained(job["model"])
    support = Dataset.from_dict({"text": job["texts"], "label": job["labels"]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_iterations=job["num_iterations"], seed=job["seed"], report_to="none",
            save_strategy="no", eval_strategy="no",
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=support)
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    predictions = model.predict(job["queries"], batch_size=64)
    return {
        "predictions": [int(value) for value in predictions],
        "seconds": wall,
        "cpu_seconds": cpu,
        "steps": trainer.st_trainer.state.global_step,
        "versions": {"setfit": setfit.__version__, "transformers": transformers.__version__},
    }


if __name__ == "__main__":
    result = main(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(result))
