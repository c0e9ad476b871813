"""Zero-shot text classification with an NLI model: choose templates and calibration, measure, publish.

    accelerate launch recipes/zero_shot_nli.py --config recipes/configs/zero_shot_nli/supersense.yaml

Templates, one by one and together, plain and calibrated, are compared on validation classes; what is chosen there is
measured once on the test classes, beside a bi-encoder on the same texts. Writes to output_dir: bundle/ (the repository
as it is pushed: the stock NLI model, with a card that names templates and labels), run_record.json and
predictions.parquet. The header of each config says what it cost and gave when last run.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from hf_fsl import ZeroShotEmbeddingPipeline, ZeroShotTextPipeline
from hf_fsl.config import ZeroShotNLIConfig, run_recipe
from hf_fsl.data import load_splits
from hf_fsl.few_shot.k_shot_rows import k_shot_rows, require_shots, supports_of
from hf_fsl.hub.bundle import write_bundle
from hf_fsl.hub.push import publish
from hf_fsl.hub.verify import reference_logits
from hf_fsl.models.templates import fill_templates
from hf_fsl.training import make_accelerator
from hf_fsl.training.recipe_run import VERIFIED, RecipeRun
from hf_fsl.zero_shot.evaluation import compare_methods, tuning_and_test
from hf_fsl.zero_shot.pipelines.loading import load_pipeline
from hf_fsl.zero_shot.record import (
    across_processes,
    build_zero_shot_record,
    mean_of_templates,
    report,
    unlabeled_inputs,
    write_predictions,
)


def main(config: ZeroShotNLIConfig) -> None:
    started = time.perf_counter()
    output, asked = Path(config.output_dir), config.zero_shot
    accelerator = make_accelerator(ddp_timeout=config.ddp_timeout)
    with RecipeRun.of(config, accelerator, started) as run:
        with accelerator.main_process_first():
            splits = load_splits(config.data, zero_shot=True)
            validation, test = tuning_and_test(splits, asked)
            pool = supports_of(splits, test)
            require_shots(test, pool, asked.shots)  # before anything is encoded
            nli = load_pipeline(ZeroShotTextPipeline, "zero-shot-classification", config.model, accelerator.device,
                                max_tokens=asked.batch_tokens)  # fmt: skip
            scorers = {"nli": mean_of_templates(across_processes(nli.evidence, asked, accelerator))}
            if config.bi_encoder is not None:
                near = load_pipeline(
                    ZeroShotEmbeddingPipeline, "feature-extraction", config.bi_encoder, accelerator.device
                )
                scorers["bi-encoder"] = across_processes(near.evidence, asked, accelerator)
        run.say(
            f"{config.data.path}: chosen on {len(validation.inputs)} texts of {len(validation.names)} classes, "
            f"tested on {len(test.inputs)} of {len(test.names)}"
        )
        for note in splits.record.notes:
            run.say(note)

        unlabeled = unlabeled_inputs(splits, asked.calibration_samples, config.data.split_seed)
        compared = compare_methods(scorers, asked.templates, validation, test, unlabeled, config.evaluation)

        if accelerator.is_main_process:
            if asked.shots:
                backbone = near.label_encoder.backbone
                compared.methods.extend(
                    k_shot_rows(backbone, test, pool, asked.shots, asked.templates, asked.label_texts)
                )
            record = build_zero_shot_record(
                config, run.command, splits, nli.model, compared, "nli", test, run.seconds,
                accelerator.num_processes, "zero-shot-classification",
            )  # fmt: skip
            run.save(record)
            write_predictions(output / "predictions.parquet", test, compared)
            for line in report(record):
                run.say(line)
            run.warn(record)

            bundle = write_bundle(output / "bundle", model=nli.model, processor=nli.tokenizer, record=record)
            texts = test.inputs[:VERIFIED]
            hypotheses = fill_templates(test.names, asked.templates[:1])[0]
            pairs = [(text, hypotheses[row % len(hypotheses)]) for row, text in enumerate(texts)]
            measured = np.stack([nli.scorer.logits([text], [hypothesis])[0, 0] for text, hypothesis in pairs])
            reference = reference_logits(nli.model, nli.tokenizer, pairs, measured, accelerator.device.type)
            result = publish(bundle, config.hub, pairs, reference)
            run.conclude(bundle, result)


if __name__ == "__main__":
    run_recipe(main, ZeroShotNLIConfig, __doc__)
