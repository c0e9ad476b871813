"""Zero-shot text classification with an NLI model: choose templates and calibration, measure, publish.

    accelerate launch recipes/zero_shot_nli.py --config recipes/configs/zero_shot_nli/supersense.yaml

Templates, one by one and together, plain and calibrated, are compared on validation classes; what is chosen there is
measured once on the test classes, beside a bi-encoder on the same texts. Writes to output_dir: bundle/ (the repository
as it is pushed: the stock NLI model, with a card that names templates and labels), run_record.json and
predictions.parquet. The header of each config says what it cost and gave when last run.
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import numpy as np
import yaml

from hf_fsl import ZeroShotEmbeddingPipeline, ZeroShotTextPipeline
from hf_fsl.config import ZeroShotNLIConfig, run_recipe, to_dict
from hf_fsl.core.paths import portable
from hf_fsl.data import load_splits
from hf_fsl.few_shot.beside_zero_shot import k_shot_rows, require_shots, supports_of
from hf_fsl.hub.bundle import write_bundle
from hf_fsl.hub.push import publish
from hf_fsl.hub.verify import reference_logits
from hf_fsl.hub.worth import cautions
from hf_fsl.models.templates import fill_templates
from hf_fsl.training import make_accelerator
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

VERIFIED = 16
"""Pairs on which the bundle, loaded by a fresh process, must give the model's logits."""


def main(config: ZeroShotNLIConfig) -> None:
    started = time.perf_counter()
    output, asked = Path(config.output_dir), config.zero_shot
    accelerator = make_accelerator(ddp_timeout=config.ddp_timeout)
    say = accelerator.print
    say(yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None, width=120))

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
    say(f"{config.data.path}: chosen on {len(validation.inputs)} texts of {len(validation.names)} classes, "
        f"tested on {len(test.inputs)} of {len(test.names)}")  # fmt: skip
    for note in splits.record.notes:
        say(note)

    unlabeled = unlabeled_inputs(splits, asked.calibration_samples, config.data.split_seed)
    compared = compare_methods(scorers, asked.templates, validation, test, unlabeled, config.evaluation)

    if accelerator.is_main_process:
        if asked.shots:
            backbone = near.label_encoder.backbone
            compared.methods.extend(k_shot_rows(backbone, test, pool, asked.shots, asked.templates, asked.label_texts))
        command = "accelerate launch " + shlex.join(map(portable, sys.argv))
        record = build_zero_shot_record(
            config, command, splits, nli.model, compared, "nli", test, time.perf_counter() - started,
            accelerator.num_processes, "zero-shot-classification",
        )  # fmt: skip
        record.save(output / "run_record.json")
        write_predictions(output / "predictions.parquet", test, compared)
        for line in [*report(record), *(f"warning: {why}" for why in cautions(record))]:
            say(line)

        bundle = write_bundle(output / "bundle", model=nli.model, processor=nli.tokenizer, record=record)
        texts = test.inputs[:VERIFIED]
        hypotheses = fill_templates(test.names, asked.templates[:1])[0]
        pairs = [(text, hypotheses[row % len(hypotheses)]) for row, text in enumerate(texts)]
        measured = np.stack([nli.scorer.logits([text], [hypothesis])[0, 0] for text, hypothesis in pairs])
        reference = reference_logits(nli.model, nli.tokenizer, pairs, measured, accelerator.device.type)
        result = publish(bundle, config.hub, pairs, reference)
        say(result or f"Verified, not pushed (hub.push_to_hub is false): {bundle}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    run_recipe(main, ZeroShotNLIConfig, __doc__)
