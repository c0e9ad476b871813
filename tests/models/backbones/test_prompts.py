"""Which prompt stands before texts, what is said of it, and that what is published puts it there by itself."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import hf_fsl.auto  # noqa: F401
from hf_fsl import FewShotClassifier
from hf_fsl.config import RECIPES, ConfigError, load_config
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.models.backbones import Backbone, BackboneError
from hf_fsl.models.export import ExportError, export_model
from hf_fsl.models.published.linear_head import LinearHead
from tests.helpers.encoders import save_encoder, texts
from tests.helpers.tiny_models import write_tokenizer

GEMMA = {"query": "the red ", "document": "", "Classification": "the good film "}


def repository(folder, prompts=None, default=None, family="bert", pooling=None):
    save_encoder(family, folder)
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    listing = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(listing))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_mean_tokens": True}))
    if prompts is not None:
        settings = {"prompts": prompts, "default_prompt_name": default}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return str(folder)


def encoded(folder, prompt):
    """By transformers alone: the mean over all tokens of prompt and text."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), Backbone.from_pretrained(folder, prompt="").model
    rows = []
    for text in texts(4):
        with torch.inference_mode():
            rows.append(model(**tokenizer(prompt + text, return_tensors="pt")).last_hidden_state[0].mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("default", "options", "prompt", "said"),
    [
        (None, {}, "the good film ", "'the good film ' is put before every text, the prompt 'Classification'"),
        ("query", {}, "the red ", "'the red ' is put before every text, the prompt 'query'"),
        ("query", {"prompt_name": "Classification"}, "the good film ", None),
        ("query", {"prompt_name": "document"}, "", None),
        ("query", {"prompt": ""}, "", None),
        ("query", {"prompt": "a bird "}, "a bird ", None),
    ],
)
def test_the_prompt_is_what_was_asked_for_else_the_repository_s_own(default, options, prompt, said, tmp_path):
    folder = repository(tmp_path, GEMMA, default)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backbone = Backbone.from_pretrained(folder, **options)
    assert [str(one.message) for one in caught if said is None or said not in str(one.message)] == []
    assert len(caught) == (said is not None)
    torch.testing.assert_close(backbone.encode(texts(4)), encoded(folder, prompt), atol=1e-5, rtol=1e-4)


def test_prompts_that_are_not_used_are_said(tmp_path):
    with pytest.warns(
        UserWarning, match="trained with prompts .'query', 'document'., none of them the default or for"
    ):
        Backbone.from_pretrained(repository(tmp_path / "qwen", {"query": "the red ", "document": ""}))
    for name in ("multilingual-e5-small", "e5_base"):
        with pytest.warns(UserWarning, match="E5 models were trained with 'query: ' before every text"):
            Backbone.from_pretrained(repository(tmp_path / name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Backbone.from_pretrained(repository(tmp_path / "base5"))


def test_prompts_that_are_not_there_are_refused(tmp_path):
    folder = repository(tmp_path / "gemma", GEMMA)
    with pytest.raises(BackboneError, match="prompt_name='classification': .*names 'query', 'document', 'Classific"):
        Backbone.from_pretrained(folder, prompt_name="classification")
    with pytest.raises(BackboneError, match="prompt or prompt_name, not both"):
        Backbone.from_pretrained(folder, prompt="a ", prompt_name="query")
    with pytest.raises(BackboneError, match="encodes images. Leave it out"):
        Backbone.from_pretrained(str(save_encoder("vit", tmp_path / "vit")), prompt="a ")
    with pytest.raises(BackboneError, match="its default prompt 'other' is none of its prompts"):
        Backbone.from_pretrained(repository(tmp_path / "other", GEMMA, "other"))


def test_a_classifier_and_what_it_saves_keep_the_prompt(tmp_path):
    folder, items = repository(tmp_path / "gemma", GEMMA, "query"), texts(8)
    labels = ["cat", "dog"] * 4
    classifier = FewShotClassifier(folder, head="nearest_mean", use_label_texts=False, prompt_name="Classification")
    plain = FewShotClassifier(folder, head="nearest_mean", use_label_texts=False, prompt="").fit(items, labels)
    expected = classifier.fit(items, labels).predict_proba(items)
    assert not np.allclose(expected, plain.predict_proba(items), atol=1e-3)
    classifier.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert '- Before every text stands the prompt `"the good film "`, put there by the tokenizer.' in card
    assert "- Of a text it reads 64 tokens; what lies beyond is cut off." in card
    again = FewShotClassifier.from_pretrained(str(tmp_path / "saved"))
    np.testing.assert_allclose(again.predict_proba(items), expected, atol=1e-5)
    from transformers import pipeline

    pipe = pipeline("text-classification", model=str(tmp_path / "saved"), top_k=None)
    for answer, row in zip(pipe(items), expected, strict=True):
        found = {one["label"]: one["score"] for one in answer}
        np.testing.assert_allclose([found[name] for name in classifier.classes_], row, atol=1e-5)
    with pytest.raises(FewShotError, match="prompt is of a backbone given by name"):
        FewShotClassifier(again.backbone_, prompt="a ").fit(items, labels)


def test_a_tokenizer_that_would_not_give_the_same_tokens_is_not_published(tmp_path):
    from tokenizers import pre_tokenizers

    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    backbone = Backbone.from_pretrained(str(save_encoder("bert", tmp_path / "bert")), prompt="the [SEP] ")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backbone.tokenizer = tokenizer  # the prompt's special token is none where the prompt is part of the normaliser
    with pytest.raises(ExportError, match="with the prompt 'the .SEP. ' built in gives other tokens"):
        export_model(backbone, LinearHead(torch.zeros(2, 32), torch.zeros(2)), ["a", "b"])


def test_recipes_without_prompts_refuse_them():
    given = ["--data.path=u/d", "--data.text_column=text", "--model.model_name_or_path=u/m", "--model.prompt=a "]
    assert load_config(RECIPES["few_shot"], None, given).model.prompt == "a "
    for recipe in ("fine_tune", "search_adapters", "zero_shot_nli", "zero_shot_clip"):
        with pytest.raises(ConfigError, match="model.prompt: of recipe few_shot"):
            load_config(RECIPES[recipe], None, given)
    with pytest.raises(ConfigError, match="prompt, prompt_name: one of the two"):
        load_config(RECIPES["few_shot"], None, [*given, "--model.prompt_name=query"])
