"""Many threads ask one model: each gets what it would get alone, and the model stays as it was."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers as t
from transformers import ViTImageProcessor

from hf_fsl.models.backbones import Backbone
from hf_fsl.zero_shot.clip import ImageTextScorer
from hf_fsl.zero_shot.nli import EntailmentScorer
from tests.helpers.encoders import pictures, texts
from tests.helpers.image_text import image_text_model
from tests.helpers.tiny_models import WORDS, build_model, text_sizes, write_tokenizer

NAMES = {0: "contradiction", 1: "neutral", 2: "entailment"}
LABELS = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}


def nli(kind):
    torch.manual_seed(0)
    if kind == "bert":
        model = build_model("bert")
        model.config.id2label, model.config.label2id = LABELS.values()
        return model.eval()
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": len(WORDS) + 10}
    special = {"bos_token_id": 2, "eos_token_id": 3}
    return t.GPT2ForSequenceClassification(t.GPT2Config(**sizes, **special, **LABELS)).eval()


@pytest.fixture(autouse=True)
def _often_interrupted():
    """Threads take turns every few instructions, so that what can fall between two of them does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(ask, questions):
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, questions))


@pytest.mark.parametrize("kind", ["bert", "decoder without a padding token"])
def test_entailment(kind, tmp_path):
    model = nli(kind)
    scorer = EntailmentScorer(model, write_tokenizer(tmp_path))
    questions = [texts(2, seed) for seed in range(20)] * 10
    hypotheses = ["the film is good", "cat"]
    expected = [scorer.logits(items, hypotheses) for items in questions[:20]] * 10
    for got, alone in zip(
        in_threads(lambda items: scorer.logits(items, hypotheses), questions), expected, strict=True
    ):
        np.testing.assert_allclose(got, alone, atol=1e-5)
    assert not any("forward" in vars(module) for module in model.modules())
    assert kind == "bert" or model.config.pad_token_id is None


def test_images(tmp_path):
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    scorer = ImageTextScorer(image_text_model("clip"), write_tokenizer(tmp_path), processor)
    items = pictures(8)
    expected = scorer.image_embeddings(items)
    for row, got in enumerate(in_threads(lambda item: scorer.image_embeddings([item]), items * 25)):
        torch.testing.assert_close(got[0], expected[row % 8], atol=1e-5, rtol=1e-4)
    assert not any("forward" in vars(module) for module in scorer.model.modules())


def test_texts_of_which_some_are_cut(tmp_path):
    """A tokenizer holds how it was told to cut: another thread's call must not change it."""
    tokenizer = write_tokenizer(tmp_path)
    backbone = Backbone(t.BertModel(t.BertConfig(**text_sizes())), tokenizer)
    questions = [["cat"], [" ".join(WORDS * 5)], ["the good film"]]
    expected = [backbone.encode(items) for items in questions]
    for row, got in enumerate(in_threads(backbone.encode, questions * 70)):
        torch.testing.assert_close(got, expected[row % 3], atol=1e-5, rtol=1e-4)
