"""The sentence-transformers modules of a repository."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from hf_fsl.models.backbones import Backbone, BackboneError
from tests.helpers.tiny_models import build_model, write_tokenizer

TEXTS = ["the cat sleeps", "a good film", "the red house and the big tree", "rain", "a bird is very big and not red"]
DENSE = {"in_features": 32, "out_features": 5, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}


FILES = {
    "listing": "modules.json",
    "transformer": "sentence_bert_config.json",
    "pooling": "1_Pooling/config.json",
    "dense": "2_Dense/config.json",
    "prompts": "config_sentence_transformers.json",
}


def settle(folder, **settings):
    for name, value in settings.items():
        path = folder / FILES[name]
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))


@pytest.fixture
def repository(tmp_path):
    """Transformer, CLS pooling, Dense with Tanh, Normalize; two prompts; at most 8 tokens."""
    build_model("bert").bert.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "3"}
    listing = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in kinds.items()]
    torch.manual_seed(2)
    weights = {"linear.weight": torch.randn(5, 32), "linear.bias": torch.randn(5)}
    settle(
        tmp_path,
        listing=listing,
        transformer={"max_seq_length": 8},
        prompts={"prompts": {"query": "the good ", "document": ""}, "default_prompt_name": None},
        pooling={"pooling_mode_cls_token": True},
        dense=DENSE,
    )
    save_file(weights, tmp_path / "2_Dense" / "model.safetensors")
    return tmp_path


def after(repository, pooled):
    weights = Backbone.from_pretrained(str(repository), pooling="cls").modules.dense[0][0]
    return torch.nn.functional.normalize(torch.tanh(pooled @ weights.weight.T + weights.bias), dim=-1).detach()


def plain(repository, text_backbone, pooling, texts=TEXTS):
    encoder = Backbone.from_pretrained(str(text_backbone), pooling=pooling, max_length=8)
    return after(repository, encoder.encode(texts))


def test_modules_decide(repository, text_backbone):
    backbone = Backbone.from_pretrained(str(repository))
    torch.testing.assert_close(backbone.encode(TEXTS), plain(repository, text_backbone, "cls"), atol=1e-5, rtol=1e-4)
    assert backbone.dimension == 5 and backbone.encode([]).shape == (0, 5)
    with_prompt = backbone.encode(["cat"], prompt="query")
    torch.testing.assert_close(with_prompt, backbone.encode(["the good cat"]), atol=1e-6, rtol=1e-5)


def test_another_pooling_keeps_the_other_modules(repository, text_backbone):
    settle(repository, pooling={"pooling_mode_weightedmean_tokens": True})
    with pytest.raises(BackboneError, match="pools by pooling_mode_weightedmean_tokens.*Name a pooling"):
        Backbone.from_pretrained(str(repository))
    backbone = Backbone.from_pretrained(str(repository), pooling="mean")
    torch.testing.assert_close(backbone.encode(TEXTS), plain(repository, text_backbone, "mean"), atol=1e-5, rtol=1e-4)
    assert backbone.modules.prompts == {"query": "the good ", "document": ""}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_tokens_of_a_prompt_are_left_out_of_the_pooling(pooling, repository):
    settle(repository, pooling={"pooling_mode": pooling, "include_prompt": False})
    backbone = Backbone.from_pretrained(str(repository))
    rows = []
    for text in TEXTS:
        encoded = backbone.tokenizer("the good " + text, truncation=True, max_length=8, return_tensors="pt")
        with torch.inference_mode():
            states = backbone.model(encoded["input_ids"]).last_hidden_state[0]
        rows.append(states[3:].mean(0) if pooling == "mean" else states[3])  # [CLS] the good
    given = backbone.encode(TEXTS, prompt="query")
    torch.testing.assert_close(given, after(repository, torch.stack(rows)), atol=1e-5, rtol=1e-4)
    with pytest.raises(BackboneError, match="'the cat the cat.*takes 9 tokens of 8. Give a shorter one"):
        backbone.encode(TEXTS, prompt="the cat the cat the cat the cat ")


def test_texts_are_lowered_where_the_repository_says_so(repository):
    tokenizer = AutoTokenizer.from_pretrained(repository)
    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.save_pretrained(repository)
    upper = [text.upper() for text in TEXTS]
    cased = Backbone.from_pretrained(str(repository))
    assert not torch.allclose(cased.encode(upper), cased.encode(TEXTS))
    settle(repository, transformer={"max_seq_length": 8, "do_lower_case": True})
    torch.testing.assert_close(Backbone.from_pretrained(str(repository)).encode(upper), cased.encode(TEXTS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_residual": True}, "set to use_residual: True, which is not supported"),
        ({"module_input_name": "token_embeddings"}, "module_input_name: 'token_embeddings'"),
        ({"dropout": 0.1}, "set to dropout: 0.1"),
        ({"activation_function": "my.Activation"}, "activation 'Activation' of its dense layer is not supported"),
        ({"use_residual": False, "module_input_name": "sentence_embedding", "module_output_name": None}, None),
    ],
)
def test_a_dense_layer_that_does_something_else_is_refused(changes, message, repository):
    settle(repository, dense=DENSE | changes)
    if message is None:
        assert Backbone.from_pretrained(str(repository)).dimension == 5
    else:
        with pytest.raises(BackboneError, match=message):
            Backbone.from_pretrained(str(repository), pooling="mean")


def test_dense_weights_as_a_pickle_are_not_read(repository):
    (repository / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="2_Dense are not there as safetensors, and pickles are not read"):
        Backbone.from_pretrained(str(repository))


def test_unknown_modules_are_refused(repository):
    listing = json.loads((repository / "modules.json").read_text())
    listing[2]["type"] = "sentence_transformers.models.LSTM"
    settle(repository, listing=listing)
    with pytest.raises(BackboneError, match="'LSTM', which is not supported"):
        Backbone.from_pretrained(str(repository), pooling="mean")


@pytest.mark.parametrize(
    ("name", "content"),
    [("modules.json", b'[{"type": '), ("modules.json", b"[1]"),
     ("modules.json", b"[" * 50_000), ("modules.json", b"5"),
     ("config_sentence_transformers.json", b"[1]")],
)  # fmt: skip
def test_files_that_cannot_be_read_are_told(text_backbone, tmp_path, name, content):
    folder = tmp_path / "model"
    shutil.copytree(text_backbone, folder)
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]')
    (folder / name).write_bytes(content)
    with pytest.raises(BackboneError, match="does not load as an encoder"):
        Backbone.from_pretrained(str(folder))
