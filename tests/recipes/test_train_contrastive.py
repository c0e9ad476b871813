"""The recipe through the real launcher, against a seeded local Hub."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load_file

from hf_fsl.cli.main import main
from hf_fsl.core.errors import UserError
from hf_fsl.core.records import ContrastiveRecord
from hf_fsl.hub.verify import BundleMismatch, require_verified
from hf_fsl.training import read_log
from tests.helpers.launching import ROOT, here, run_here
from tests.helpers.launching import launch as launch_recipe

SMOKE = ROOT / "recipes" / "configs" / "train_contrastive" / "emoji.smoke.yaml"

STRANGER = """
import sys, transformers
from PIL import Image
pipe = transformers.pipeline("zero-shot-image-classification", model=sys.argv[1])
answer = pipe(Image.new("RGB", (80, 64), "red"), candidate_labels=["apple", "bus"], hypothesis_template="a {}")
assert {row["label"] for row in answer} == {"apple", "bus"} and abs(sum(row["score"] for row in answer) - 1) < 1e-4
assert "hf_fsl" not in sys.modules and type(pipe.model).__name__ == sys.argv[2]
"""


def launch(environment, output, *overrides, preset="cpu", config=SMOKE):
    return launch_recipe(environment, output, config, *overrides, recipe="train_contrastive", preset=preset)


def losses(folder):
    return [row["train/loss"] for row in read_log(folder / "metrics.jsonl") if "train/loss" in row]


def test_smoke_config_runs_publishes_and_loads_in_the_stock_pipeline(
    hub, hub_environment, tmp_path, monkeypatch, capsys
):
    done = launch(hub_environment, tmp_path, "--hub.push_to_hub", "true", "--hub.hub_model_id", "me/emoji-clip")
    assert done.returncode == 0, done.stderr[-3000:]
    record = ContrastiveRecord.load(tmp_path / "run_record.json")
    assert record.data.revision == HfApi(endpoint=hub, token="x").dataset_info(record.data.path).sha
    assert set(record.tests) == {"test", "twemoji"}
    for rows in record.tests.values():
        assert set(rows) == {"accuracy", "balanced_accuracy", "retrieval_at_1", "retrieval_at_5"}
        for row in rows.values():
            low, high = row.measurement.ci95
            assert low <= row.measurement.value <= high and 0 < row.chance < 1
    assert ContrastiveRecord.from_json(record.to_json()) == record
    assert record.text.trainable_parameters == 0 and record.image.trainable_parameters > 300_000
    bundle = tmp_path / "bundle"
    require_verified(bundle)
    assert {path.suffix for path in bundle.iterdir()} <= {".json", ".safetensors", ".md", ".txt"}
    texts = [path.read_text() for path in bundle.iterdir() if path.suffix in (".json", ".md")]
    assert not any(str(ROOT) in text or str(tmp_path) in text or "site-packages" in text for text in texts)
    info = HfApi(endpoint=hub, token="x").model_info("me/emoji-clip")
    assert info.pipeline_tag == "zero-shot-image-classification"
    card = (bundle / "README.md").read_text()
    assert (
        ModelCard(card).data.eval_results[0].metric_args["candidates"] == record.tests["test"]["accuracy"].candidates
    )
    assert "me/emoji-clip" in card
    stock = [sys.executable, "-I", "-c", STRANGER, str(bundle), "VisionTextDualEncoderModel"]
    loaded = subprocess.run(stock, env=hub_environment, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "test")
    assert main(["push", str(bundle), "--hub_model_id", "me/again"]) == 0
    assert "Pushed to" in capsys.readouterr().out


@pytest.mark.slow
def test_resumed_run_ends_in_the_weights_of_an_uninterrupted_one(hub_environment, tmp_path):
    options = ["--training.save_steps", "2", "--training.save_total_limit", "9", "--training.logging_steps", "1"]
    whole = launch(hub_environment, tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr[-3000:]
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "cut" / "checkpoints")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "seed-0" / "checkpoint-4")
    cut = launch(hub_environment, tmp_path / "cut", *options, "--training.resume_from_checkpoint", "auto")
    assert cut.returncode == 0, cut.stderr[-3000:]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")[2:]
    weights = [load_file(tmp_path / name / "bundle" / "model.safetensors") for name in ("whole", "cut")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    other = launch(
        hub_environment,
        tmp_path / "cut",
        *options,
        "--training.resume_from_checkpoint",
        "auto",
        "--loss.name",
        "siglip",
    )
    assert other.returncode == 1 and "belongs to another run (loss" in other.stderr


@pytest.mark.slow
def test_two_processes_see_the_negatives_of_both(hub_environment, tmp_path):
    """The same 16 pairs a step, as 2 x 8 on one process and as 8 on each of two: the same losses."""
    options = ["--training.logging_steps", "1", "--training.max_steps", "3"]
    two = launch(hub_environment, tmp_path / "two", *options, "--training.gradient_accumulation_steps", "1",
                 preset="cpu_2proc")  # fmt: skip
    assert two.returncode == 0, two.stderr[-3000:]
    one = launch(hub_environment, tmp_path / "one", *options)
    assert one.returncode == 0, one.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


@pytest.mark.slow
def test_a_whole_dual_encoder_with_lora_on_both_towers(hub_environment, tmp_path):
    import transformers as t

    from tests.helpers.tiny_models import image_sizes, text_sizes, write_tokenizer

    folder = tmp_path / "clip"
    sizes = text_sizes() | {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    config = t.CLIPConfig(vision_config=image_sizes(), text_config=sizes, projection_dim=16)
    torch.manual_seed(0)
    t.CLIPModel(config).save_pretrained(folder)
    write_tokenizer(folder)
    t.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    model = {
        "model_name_or_path": str(folder),
        "image": {"method": "lora", "r": 2},
        "text": {"method": "lora", "r": 2},
    }
    written = tmp_path / "config.yaml"
    text = SMOKE.read_text()
    written.write_text(text[: text.index("model:")] + f"model: {json.dumps(model)}\n" + text[text.index("augment") :])
    done = launch(hub_environment, tmp_path / "out", config=written)
    assert done.returncode == 0, done.stderr[-3000:]
    bundle = tmp_path / "out" / "bundle"
    record = ContrastiveRecord.load(bundle / "run_record.json")
    assert record.architecture == "CLIPModel" and record.image.adapter["r"] == 2
    assert (bundle / "adapter" / "text" / "adapter_model.safetensors").is_file()
    before = t.CLIPModel.from_pretrained(folder).state_dict()
    after = t.CLIPModel.from_pretrained(bundle).state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"logit_scale", "visual_projection.weight"} <= changed
    assert any("text_model" in name and "q_proj" in name for name in changed)
    # what is changed in a bundle is not verified any more
    (bundle / "config.json").write_text((bundle / "config.json").read_text() + "\n")
    with pytest.raises(BundleMismatch, match="changed after it was verified"):
        require_verified(bundle)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--data.captions", "['{nam}']"], "no column 'nam'; it has image, name, category, subcategory, unicode, "
         "is_class. Did you mean 'name'?"),
        (["--data.test_split", "nowhere"], "has no split 'nowhere'; it has base, validation, novel"),
        (["--model.image.model_name_or_path", "hf-fsl/nowhere"], "model.image.model_name_or_path: "
         "hf-fsl/nowhere does not load as an image tower"),
        (["--data.max_train_samples", "17", "--training.max_steps", "9"], "at least 2 pairs"),
        (["--training.per_device_train_batch_size=1", "--training.gradient_accumulation_steps=1"], "at least 2, or"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_one_clear_message(tmp_path, overrides, message, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    local = here("emoji", model__image="tiny-convnext", model__text="minilm")
    with pytest.raises(UserError, match=re.escape(message)):
        run_here("train_contrastive", SMOKE, tmp_path, *local, *overrides)
