"""Transfer learning: fine-tune a Hub model on text, text-pair or image classification and publish it.

    accelerate launch recipes/fine_tune.py --config recipes/configs/fine_tune/supersense.yaml
    accelerate launch recipes/fine_tune.py --config … --training.learning_rate 5e-4 --hub.push_to_hub true \\
        --hub.hub_model_id me/my-model

Writes to output_dir: bundle/ (the repository as it is pushed), run_record.json, predictions.parquet, metrics.jsonl
and checkpoints/. The header of each config says what it cost and gave when last run.
"""

from __future__ import annotations

import time
from pathlib import Path

import peft

from hf_fsl.config import FineTuneConfig, run_recipe, to_dict
from hf_fsl.data import load_splits
from hf_fsl.data.encoding import label_tensor
from hf_fsl.hub.bundle import write_bundle
from hf_fsl.hub.push import publish
from hf_fsl.hub.verify import reference_logits
from hf_fsl.metrics import predicted_labels
from hf_fsl.metrics.measure import compare
from hf_fsl.models.adapters import merge_adapter
from hf_fsl.training import RunLog, start_accelerator
from hf_fsl.training.baselines import baseline_predictions
from hf_fsl.training.fine_tune import FineTuned, fine_tune_seed, model_record
from hf_fsl.training.fine_tune_record import build_record, sample_inputs, write_predictions
from hf_fsl.training.recipe_run import VERIFIED, RecipeRun


def main(config: FineTuneConfig) -> None:
    started, config = time.perf_counter(), config.resolved()
    output = Path(config.output_dir)
    accelerator = start_accelerator(
        config.training, output, config.recipe, to_dict(config), ddp_timeout=config.ddp_timeout
    )
    with RecipeRun.of(config, accelerator, started) as run:
        with accelerator.main_process_first():
            splits = load_splits(config.data)
        sizes = ", ".join(f"{name} {split.rows}" for name, split in splits.record.splits.items())
        run.say(f"{config.data.path}: {splits.task.modality}, {len(splits.task.label_names)} classes, {sizes}")
        for note in splits.record.notes:
            run.say(note)

        best: FineTuned | None = None
        outcomes = []
        metric = config.training.metric_for_best_model
        for seed in config.training.seeds:
            prefix = f"seed-{seed}/" if len(config.training.seeds) > 1 else ""
            trained = fine_tune_seed(config, splits, accelerator, seed, RunLog(accelerator, prefix), run.say)
            outcomes.append(trained.outcome)
            run.say(
                f"seed {seed}: {trained.count}; validation {metric} {trained.outcome.record.validation[metric]:.4f}"
            )
            if best is None or trained.validation_score(metric) > best.validation_score(metric):
                best = trained
        assert best is not None

        if accelerator.is_main_process:
            labels = label_tensor(splits.test["label"], splits.task).numpy()
            predictions = predicted_labels(best.outcome.logits, splits.task.multi_label)
            comparisons = [
                compare(name, predictions, baseline_predictions(name, splits, config.model), labels, config.evaluation)
                for name in config.evaluation.baselines
            ]
            record = build_record(
                config, run.command, splits, labels, model_record(config, best), outcomes, best.outcome,
                comparisons, run.seconds, accelerator.num_processes,
            )  # fmt: skip
            run.save(record)
            write_predictions(output / "predictions.parquet", splits, labels, outcomes)
            for name, value in record.metrics.items():
                low, high = value.ci95 or (float("nan"), float("nan"))
                run.say(f"test {name}: {value.value:.4f}  95 % [{low:.4f}, {high:.4f}]  n = {value.n}")
            for row in record.comparisons:
                run.say(f"{row.metric} over {row.name}: {row.difference.value:+.4f}  95 % {row.difference.ci95}")
            run.warn(record)

            adapter = None
            if isinstance(best.model, peft.PeftModel):
                adapter = output / "adapter"
                best.model.save_pretrained(adapter)
            merged = merge_adapter(best.model)
            bundle = write_bundle(
                output / "bundle", model=merged, processor=best.processor, record=record, adapter_dir=adapter
            )
            inputs, trained_logits = sample_inputs(splits.test, splits.task, VERIFIED), best.outcome.logits[:VERIFIED]
            reference = reference_logits(merged, best.processor, inputs, trained_logits, accelerator.device.type)
            result = publish(bundle, config.hub, inputs, reference)
            run.conclude(bundle, result)


if __name__ == "__main__":
    run_recipe(main, FineTuneConfig, __doc__)
