"""How long texts may be, how they are padded, and what comes of it with models that are particular about either."""

from __future__ import annotations

import warnings

import pytest
import torch
from PIL import Image
from transformers import (
    GPT2Config,
    GPT2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from hf_fsl.models.backbones import Backbone, BackboneError
from hf_fsl.models.backbones.texts import token_limit, truncation
from tests.helpers.tiny_models import WORDS, build_model, image_sizes, text_sizes, write_tokenizer

TEXTS = ["the cat sleeps", "a good film", "the red house and the big tree", "rain"]
LONG = " ".join(WORDS * 5)


def endless_tokenizer(folder):
    """A tokenizer that names no limit, as many on the Hub do."""
    tokenizer = write_tokenizer(folder)
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize(("kind", "limit"), [("bert", 64), ("roberta", 80 - 1), ("distilbert", 512)])
def test_position_embeddings_limit_texts_where_the_tokenizer_does_not(kind, limit, tmp_path):
    model = build_model(kind)
    getattr(model, model.base_model_prefix).save_pretrained(tmp_path)
    endless_tokenizer(tmp_path)
    backbone = Backbone.from_pretrained(str(tmp_path))
    assert token_limit(backbone.model, backbone.tokenizer) == limit
    cut = Backbone.from_pretrained(str(tmp_path), max_length=limit)
    torch.testing.assert_close(backbone.encode([LONG, "cat"]), cut.encode([LONG, "cat"]))
    backbone.tokenizer.model_max_length = 20
    assert token_limit(backbone.model, backbone.tokenizer) == 20


def test_no_text_is_longer_than_there_are_positions(tmp_path):
    """Whoever asks for more: the tokenizer, the repository's modules, or the user, who is told."""
    model = build_model("roberta")
    model.roberta.save_pretrained(tmp_path)
    endless_tokenizer(tmp_path)
    (tmp_path / "modules.json").write_text('[{"path": "", "type": "sentence_transformers.models.Transformer"}]')
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 512}')
    backbone = Backbone.from_pretrained(str(tmp_path))
    assert backbone.token_limit == 79
    assert backbone.encode([LONG]).isfinite().all()
    with pytest.raises(BackboneError, match="max_length=80: the backbone takes at most 79 tokens. Lower it"):
        Backbone.from_pretrained(str(tmp_path), max_length=80)
    with pytest.raises(BackboneError, match="max_length=0: a text has at least 1 token"):
        Backbone.from_pretrained(str(tmp_path), max_length=0)


def test_what_is_cut_off_is_counted_and_said(text_backbone):
    backbone = Backbone.from_pretrained(str(text_backbone), max_length=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone.encode(["the cat sleeps", "the cat was not"])  # 6 tokens with [CLS] and [SEP]: nothing is cut
    items = ["rain", "the cat was not very big", "the red house and the big tree"]
    with pytest.warns(UserWarning, match="2 of 3 texts are longer than the 6 tokens .*: 25.0% of all tokens are cut"):
        backbone.encode(items)
    found = backbone.truncation(items)
    assert (found.limit, found.texts, found.cut_texts, found.tokens, found.cut_tokens) == (6, 3, 2, 20, 5)
    pairs = truncation(backbone.tokenizer, [["the cat", "a dog"], ["a good film", "rain"]], [6, 6], 6)
    assert (pairs.cut_texts, pairs.tokens, pairs.cut_tokens) == (1, 14, 2)


def test_learned_positions_start_at_the_first_token_whatever_side_the_tokenizer_pads(tmp_path):
    torch.manual_seed(0)
    GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=40)).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    for pooling in ("last", "mean", "cls"):
        backbone = Backbone.from_pretrained(str(tmp_path), pooling=pooling)
        backbone.tokenizer.padding_side = "left"
        alone = torch.cat([backbone.encode([text]) for text in TEXTS])
        torch.testing.assert_close(backbone.encode(TEXTS), alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_siglip_texts_are_padded_to_the_full_length(masked, tmp_path):
    text = text_sizes() | {"max_position_embeddings": 16, "pad_token_id": 0}
    torch.manual_seed(0)
    SiglipModel(SiglipConfig(text_config=text, vision_config=image_sizes())).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    backbone = Backbone.from_pretrained(str(tmp_path))
    # Published SigLIP tokenizers give no mask: the padding is attended to, as it was in training.
    backbone.tokenizer.model_input_names = ["input_ids", "attention_mask"] if masked else ["input_ids"]
    padded = {"padding": "max_length", "max_length": 16, "truncation": True}
    inputs = backbone.tokenizer([*TEXTS, LONG], **padded, return_tensors="pt")
    assert ("attention_mask" in inputs) == masked
    wanted = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    with torch.inference_mode():
        expected = backbone.model.get_text_features(**wanted).pooler_output
    torch.testing.assert_close(backbone.encode([*TEXTS, LONG], max_tokens=40), expected, atol=1e-5, rtol=1e-4)
    assert backbone.dimension == 32 == backbone.encode([Image.new("RGB", (16, 16))]).shape[1]


def test_a_pooling_for_a_dual_encoder_means_its_image_tower(tmp_path):
    SiglipModel(SiglipConfig(text_config=text_sizes(), vision_config=image_sizes())).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    backbone = Backbone.from_pretrained(str(tmp_path), pooling="mean")
    picture = Image.new("RGB", (16, 16), "red")
    with torch.inference_mode():
        tower = SiglipModel.from_pretrained(tmp_path).vision_model.eval()
        pixels = backbone.image_processor(picture, return_tensors="pt")["pixel_values"]
        expected = tower(pixels).last_hidden_state.mean(1)
    torch.testing.assert_close(backbone.encode([picture]), expected, atol=1e-6, rtol=1e-5)
    with pytest.raises(BackboneError, match="cannot be read as an image"):
        backbone.encode(["a text"])
