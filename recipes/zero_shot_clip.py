"""Zero-shot image classification with CLIP and its kin: choose templates and calibration, measure, publish.

    accelerate launch recipes/zero_shot_clip.py --config recipes/configs/zero_shot_clip/emoji.yaml

Templates, one by one and together, plain and calibrated, are compared on validation classes; what is chosen there is
measured once on the test classes. Writes to output_dir: bundle/ (the repository as it is pushed: the stock model, with
a card that names templates and labels), run_record.json and predictions.parquet. The header of each config says what
it cost and gave when last run.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from hf_fsl import ZeroShotImagePipeline
from hf_fsl.config import ZeroShotClipConfig, run_recipe
from hf_fsl.data import load_splits
from hf_fsl.few_shot.k_shot_rows import k_shot_rows, require_shots, supports_of
from hf_fsl.hub.bundle import write_bundle
from hf_fsl.hub.verify import DualEncoderSample, verify_dual_encoder
from hf_fsl.models.backbones import Backbone
from hf_fsl.training import make_accelerator
from hf_fsl.training.recipe_run import VERIFIED, RecipeRun
from hf_fsl.zero_shot.evaluation import compare_methods, tuning_and_test
from hf_fsl.zero_shot.pipelines.loading import load_pipeline
from hf_fsl.zero_shot.record import (
    across_processes,
    build_zero_shot_record,
    report,
    unlabeled_inputs,
    write_predictions,
)


def main(config: ZeroShotClipConfig) -> None:
    started = time.perf_counter()
    output, asked = Path(config.output_dir), config.zero_shot
    accelerator = make_accelerator(ddp_timeout=config.ddp_timeout)
    with RecipeRun.of(config, accelerator, started) as run:
        with accelerator.main_process_first():
            splits = load_splits(config.data, zero_shot=True)
            validation, test = tuning_and_test(splits, asked)
            pool = supports_of(splits, test)
            require_shots(test, pool, asked.shots)  # before anything is encoded
            pipe = load_pipeline(
                ZeroShotImagePipeline, "zero-shot-image-classification", config.model, accelerator.device
            )
        run.say(
            f"{config.data.path}: chosen on {len(validation.inputs)} images of {len(validation.names)} classes, "
            f"tested on {len(test.inputs)} of {len(test.names)}"
        )
        for note in splits.record.notes:
            run.say(note)

        unlabeled = unlabeled_inputs(splits, asked.calibration_samples, config.data.split_seed)
        scorers = {"image-text": across_processes(pipe.evidence, asked, accelerator)}
        compared = compare_methods(scorers, asked.templates, validation, test, unlabeled, config.evaluation)

        if accelerator.is_main_process:
            if asked.shots:
                backbone = Backbone(pipe.model, pipe.tokenizer, image_processor=pipe.image_processor)
                compared.methods.extend(
                    k_shot_rows(backbone, test, pool, asked.shots, asked.templates, asked.label_texts)
                )
            record = build_zero_shot_record(
                config, run.command, splits, pipe.model, compared, "image-text", test, run.seconds,
                accelerator.num_processes, "zero-shot-image-classification",
            )  # fmt: skip
            run.save(record)
            write_predictions(output / "predictions.parquet", test, compared)
            for line in report(record):
                run.say(line)
            run.warn(record)

            pipe.model.to("cpu")
            pipe.device = pipe.model.device
            processors = [pipe.tokenizer, pipe.image_processor]
            bundle = write_bundle(output / "bundle", model=pipe.model, processor=processors, record=record)
            pictures, template = test.inputs[:VERIFIED], asked.templates[0]
            embeddings = pipe.scorer.image_embeddings(pictures), pipe.scorer.label_embeddings(test.names, template)
            verify_dual_encoder(
                bundle, DualEncoderSample(pictures, test.names, template, *map(np.asarray, embeddings))
            )
            run.conclude(bundle, run.push(bundle))


if __name__ == "__main__":
    run_recipe(main, ZeroShotClipConfig, __doc__)
