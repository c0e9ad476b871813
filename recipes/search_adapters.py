"""Adapter search: find the adapter that a task with few labels needs, say whether it mattered, and publish it.

    accelerate launch recipes/search_adapters.py --config recipes/configs/search_adapters/supersense.yaml
    accelerate launch recipes/search_adapters.py --config … --search.storage postgresql://me@host/studies

Start it as often as you like, on as many machines as share output_dir and search.storage: the processes work on one
study, and what is finished is never run again. `hf-fsl search show OUTPUT_DIR` shows how far it is.

Writes to output_dir: report.json and report.html, fine_tune.yaml (trains the chosen adapter again), few_shot/ (the
examples), bundle/ (the repository as it is pushed: the chosen model, other members of the front as adapters) and
run_record.json. The header of each config says what it cost and gave when last run.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from hf_fsl.config import AdapterSearchConfig, run_recipe
from hf_fsl.core.files import write_text
from hf_fsl.data import load_splits
from hf_fsl.hub.bundle import write_bundle
from hf_fsl.hub.push import publish
from hf_fsl.hub.verify import reference_logits
from hf_fsl.metrics import predicted_labels
from hf_fsl.metrics.measure import compare
from hf_fsl.models.adapters import merge_adapter
from hf_fsl.search.few_shot import few_shot_splits
from hf_fsl.search.finalists import Finish, complete
from hf_fsl.search.locks import only_worker
from hf_fsl.search.report import lines, write_report
from hf_fsl.search.run import fine_tune_yaml, search, search_record, write_extras
from hf_fsl.search.space import SearchSpace
from hf_fsl.search.trial import AdapterTrial
from hf_fsl.training import make_accelerator
from hf_fsl.training.baselines import baseline_predictions
from hf_fsl.training.fine_tune import model_record
from hf_fsl.training.fine_tune_record import build_record, sample_inputs
from hf_fsl.training.recipe_run import VERIFIED, RecipeRun


def main(config: AdapterSearchConfig) -> None:
    started = time.perf_counter()
    output = Path(config.output_dir)
    accelerator = make_accelerator(config.few_shot.mixed_precision, ddp_timeout=config.ddp_timeout)
    with RecipeRun.of(config, accelerator, started) as run:
        with accelerator.main_process_first():
            splits = few_shot_splits(load_splits(config.data, all_labels=True), config.few_shot)
        trial = AdapterTrial(
            config.model, splits, config.few_shot, config.search, accelerator, config.search.seed,
            config.evaluation.trust_remote_code,
        )  # fmt: skip
        space = SearchSpace(config.space, trial.sites)
        run.say(
            f"{config.data.path}: {len(splits.task.label_names)} classes, {len(splits.train)} examples to train on, "
            f"{len(splits.validation)} to compare by; {space.size():,} architectures"
        )
        for note in splits.record.notes:
            run.say(note)

        report = search(config, space, trial, splits, run.say)
        with only_worker(output, accelerator, run.say) as mine:
            if not mine:
                run.say(f"Another worker has finished the search: {output / 'report.html'}")
                return
            if accelerator.is_main_process:
                write_report(report, output)
            finish = Finish(config, trial, splits, accelerator, output, run.say, report.identity)
            members = finish.run(report.front, report.hypervolume["reference"])
            report.finish_token_flops, report.diverged = finish.token_flops, finish.diverged
            chosen = complete(report, members, splits, trial.sites, config)
            best = finish.published(chosen)

            if accelerator.is_main_process:
                write_report(report, output)
                write_text(output / "fine_tune.yaml", fine_tune_yaml(chosen))
                for line in lines(report):
                    run.say(line)
                labels = np.asarray(splits.test["label"][:])
                predictions = predicted_labels(best.outcome.logits, False)
                comparisons = [
                    compare(
                        name, predictions, baseline_predictions(name, splits, config.model), labels, config.evaluation
                    )
                    for name in config.evaluation.baselines
                ]
                record = build_record(
                    chosen.config, run.command, splits, labels,
                    model_record(chosen.config, best), chosen.outcomes, best.outcome, comparisons,
                    run.seconds, accelerator.num_processes,
                )  # fmt: skip
                record = search_record(record, config, report, members, labels)
                run.save(record)
                run.warn(record)
                merged = merge_adapter(best.model)
                bundle = write_bundle(
                    output / "bundle", model=merged, processor=best.processor, record=record,
                    adapter_dir=chosen.adapter,
                    more=lambda bundle: write_extras(bundle, report, members, record.model.base_model),
                )  # fmt: skip
                inputs, logits = sample_inputs(splits.test, splits.task, VERIFIED), best.outcome.logits[:VERIFIED]
                reference = reference_logits(merged, best.processor, inputs, logits, accelerator.device.type)
                result = publish(bundle, config.hub, inputs, reference)
                run.conclude(bundle, result)


if __name__ == "__main__":
    run_recipe(main, AdapterSearchConfig, __doc__)
