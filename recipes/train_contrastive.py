"""Image-text contrastive training: adapt a Hub dual encoder (CLIP, SigLIP), or put two towers together, and publish.

    accelerate launch recipes/train_contrastive.py --config recipes/configs/train_contrastive/emoji.yaml
    accelerate launch recipes/train_contrastive.py --config … --training.learning_rate 5e-4 --hub.push_to_hub true \\
        --hub.hub_model_id me/my-model

Measured on classes that training has not seen: zero-shot classification, and finding a picture's own text among all.
Writes to output_dir: bundle/ (the repository as it is pushed), run_record.json, metrics.jsonl and checkpoints/. The
header of each config says what it cost and gave when last run.
"""

from __future__ import annotations

import time
from pathlib import Path

import peft

from hf_fsl.config import ContrastiveConfig, run_recipe, to_dict
from hf_fsl.contrastive.record import build_contrastive_record, verification_sample
from hf_fsl.contrastive.training import train_towers
from hf_fsl.data import load_pairs
from hf_fsl.hub.bundle import write_dual_encoder_bundle
from hf_fsl.hub.verify import verify_dual_encoder
from hf_fsl.training import RunLog, start_accelerator
from hf_fsl.training.recipe_run import VERIFIED, RecipeRun


def main(config: ContrastiveConfig) -> None:
    started, config = time.perf_counter(), config.resolved()
    output = Path(config.output_dir)
    accelerator = start_accelerator(
        config.training, output, config.recipe, to_dict(config), ddp_timeout=config.ddp_timeout
    )
    with RecipeRun.of(config, accelerator, started) as run:
        with accelerator.main_process_first():
            pairs = load_pairs(config.data)
        sizes = ", ".join(f"{name} {split.rows}" for name, split in pairs.record.splits.items())
        run.say(f"{config.data.path}: pictures {sizes}; {sum(map(len, pairs.train.captions))} captions to train on")

        trained = train_towers(config, pairs, accelerator, RunLog(accelerator), run.say)
        run.say(
            f"{trained.count}; validation " + ", ".join(f"{name} {v:.4f}" for name, v in trained.validation.items())
        )
        sample = verification_sample(config, pairs.tests["test"], trained, accelerator, VERIFIED)

        if accelerator.is_main_process:
            record = build_contrastive_record(
                config, run.command, pairs, trained, run.seconds, accelerator.num_processes
            )
            run.save(record)
            for split, rows in record.tests.items():
                for name, row in rows.items():
                    low, high = row.measurement.ci95 or (float("nan"), float("nan"))
                    run.say(
                        f"{split} {name}: {row.measurement.value:.4f}  95 % [{low:.4f}, {high:.4f}]  "
                        f"chance {row.chance:.4f}  n = {row.measurement.n}"
                    )

            towers, adapters = trained.towers, {}
            for name in ("image", "text"):
                tower = getattr(towers.encoder, f"{name}_tower")
                if isinstance(tower, peft.PeftModel):
                    adapters[name] = output / "adapter" / name
                    tower.save_pretrained(adapters[name])
            bundle = write_dual_encoder_bundle(
                output / "bundle", model=towers.encoder.merged(), tokenizer=towers.tokenizer,
                image_processor=towers.image_processor, record=record, adapters=adapters,
            )  # fmt: skip
            verify_dual_encoder(bundle, sample)
            run.conclude(bundle, run.push(bundle))


if __name__ == "__main__":
    run_recipe(main, ContrastiveConfig, __doc__)
