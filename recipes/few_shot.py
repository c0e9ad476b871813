"""Few-shot classification: methods compared on episodes, a classifier fitted on the support set, published.

    accelerate launch recipes/few_shot.py --config recipes/configs/few_shot/supersense.yaml

All methods answer the same N-way k-shot episodes; nothing is chosen on queries. With meta_training the backbone first
learns, by metric learning, from classes that are in no episode, and is measured beside the untrained one. Then a
FewShotClassifier is fitted on the support set and measured on the test split. Writes to output_dir: bundle/ (the
repository as it is pushed), run_record.json and predictions.parquet. The header of each config says what it cost and
gave when last run.
"""

from __future__ import annotations

import time
from pathlib import Path

from hf_fsl import FewShotClassifier
from hf_fsl.config import FewShotRecipeConfig, run_recipe
from hf_fsl.few_shot.classifier.fitting import load_backbone
from hf_fsl.few_shot.classifier.publishing import export, write_few_shot_bundle
from hf_fsl.few_shot.evaluation import draw_episodes, evaluate, meta_trained
from hf_fsl.few_shot.pools import fitting_and_test, load_pools
from hf_fsl.few_shot.record import few_shot_record, measure_classifier, report, write_predictions
from hf_fsl.hub.push import publish
from hf_fsl.hub.verify import reference_logits
from hf_fsl.models import registration
from hf_fsl.models.label_texts import complete_label_texts
from hf_fsl.training import make_accelerator
from hf_fsl.training.recipe_run import VERIFIED, RecipeRun


def main(config: FewShotRecipeConfig) -> None:
    started = time.perf_counter()
    output, asked = Path(config.output_dir), config.classifier
    accelerator = make_accelerator(ddp_timeout=config.ddp_timeout)
    with RecipeRun.of(config, accelerator, started) as run:
        with accelerator.main_process_first():
            pools = load_pools(config)
            drawn = draw_episodes(config, pools)
            support, test = fitting_and_test(pools, config)
            model = config.model
            backbone = load_backbone(
                model.model_name_or_path, pooling=config.pooling, revision=model.revision, max_length=model.max_length,
                trust_remote_code=model.trust_remote_code, dtype=model.dtype, device=str(accelerator.device),
                prompt=model.prompt, prompt_name=model.prompt_name,
            )  # fmt: skip
        run.say(
            f"{config.data.path}: {len(pools.names)} classes, {len(pools.support)} possible supports, "
            f"{len(pools.query)} queries, {len(pools.base)} examples of other classes"
        )
        for note in pools.splits.record.notes:
            run.say(note)
        trained = meta_trained(config, pools, backbone, accelerator)
        backbones = {False: backbone} | ({True: trained.backbone} if trained is not None else {})
        episodes = evaluate(config, pools, drawn, backbones, accelerator)

        if accelerator.is_main_process:
            classifier = FewShotClassifier(
                backbones[trained is not None],
                head=asked.head,
                adapter=None if asked.adapt == "never" else config.adapter,
                keep_adapter="better" if asked.adapt == "auto" else "always",
                use_label_texts=asked.use_label_texts,
                templates=asked.templates,
                adaptation=config.adaptation,
                folds=asked.folds,
                coverage=asked.coverage,
                keep_support=asked.keep_support,
                pooling=config.pooling,
                progress=True,
                random_state=config.episodes.seed,
            )
            texts = complete_label_texts(pools.names, asked.label_texts)
            names = [pools.names[label] for label in support.labels]
            classifier.fit(
                support.inputs, names, unlabeled=pools.base.inputs,
                label_texts=texts if asked.use_label_texts and backbone.tokenizer is not None else None,
            )  # fmt: skip
            run.say(f"Fitted on {len(support)} examples: {classifier.reason_}")
            measured = measure_classifier(classifier, test, pools, config)
            fitted = classifier.publishable(trained)
            exported = export(fitted)
            record = few_shot_record(
                config, run.command, pools, episodes, classifier, exported, measured, trained, run.seconds,
                accelerator.num_processes,
            )  # fmt: skip
            run.save(record)
            write_predictions(output / "predictions.parquet", measured)
            for line in report(record):
                run.say(line)
            run.warn(record)

            bundle = write_few_shot_bundle(output / "bundle", fitted, exported, record)
            shown = test.inputs[:VERIFIED]
            reference = reference_logits(
                exported.model, exported.processor, shown, classifier.logits(shown), accelerator.device.type
            )
            result = publish(bundle, config.hub, shown, reference, registration=registration.__name__)
            run.conclude(bundle, result)


if __name__ == "__main__":
    run_recipe(main, FewShotRecipeConfig, __doc__)
