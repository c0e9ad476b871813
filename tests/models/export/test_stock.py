"""Heads folded into stock classes give the same logits in a process that has no hf_fsl."""

from __future__ import annotations

import pytest
import torch

from hf_fsl.models.backbones import Backbone
from hf_fsl.models.export import (
    CacheHead,
    ExportError,
    LinearHead,
    backbone_of,
    export_model,
    load_published,
    stock_pooling,
)
from tests.helpers.encoders import IMAGE_FAMILIES, TEXT_FAMILIES, build_encoder, pictures, save_encoder, texts
from tests.helpers.publishing import NAMES, centred, in_fresh_process, job, publish, random_head, whitened

POOLINGS = {"bert": ("cls", "pooler"), "eurobert": ("mean", "cls"), "modernbert": ("mean", "cls")}
CASES = [
    (family, pooling)
    for family in TEXT_FAMILIES + IMAGE_FAMILIES
    for pooling in POOLINGS.get(family, (stock_pooling(build_encoder(family)),))
]


def inputs_of(family):
    return texts() if family in TEXT_FAMILIES else pictures()


def load(family, pooling, folder, **options):
    return Backbone.from_pretrained(str(save_encoder(family, folder)), pooling=pooling, **options)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Every family's export, loaded and run by one fresh process: case -> (model, expected logits, logits, answer)."""
    work, jobs, expected, models = tmp_path_factory.mktemp("published"), [], {}, {}
    for family, pooling in CASES:
        backbone = load(family, pooling, work / f"{family}-{pooling}-encoder")
        items = inputs_of(family)
        embeddings = backbone.encode(items)
        head = whitened(embeddings)
        exported = export_model(backbone, head, NAMES)
        assert exported.stock
        folder = publish(exported, work / f"{family}-{pooling}")
        models[family, pooling], expected[family, pooling] = exported.model, head(embeddings)
        jobs.append(job(folder, "text" if family in TEXT_FAMILIES else "image", items, work))
    found, answers = in_fresh_process(work, jobs)
    return {
        case: (models[case], expected[case], found[one["folder"]], answers[one["folder"]], one["folder"])
        for case, one in zip(CASES, jobs, strict=True)
    }


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_stranger_gets_the_logits_of_the_head(case, published):
    model, expected, found, (architecture, answer), _ = published[case]
    assert architecture == type(model).__name__ and type(model).__module__.startswith("transformers.models.")
    assert (found.argmax(1) == expected.argmax(1)).all()
    torch.testing.assert_close(centred(found), centred(expected), atol=1e-4, rtol=0)
    assert answer == NAMES[expected[0].argmax()]
    assert len(set(expected.argmax(1).tolist())) > 1


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_further_examples_are_encoded_in_the_same_space(case, published, tmp_path):
    family, pooling = case
    loaded = load_published(published[case][-1])
    again, first = backbone_of(loaded.model, loaded.processor), load(family, pooling, tmp_path)
    torch.testing.assert_close(again.encode(inputs_of(family)), first.encode(inputs_of(family)), atol=1e-5, rtol=1e-5)
    assert again.dimension == first.dimension


def test_a_model_of_somebody_else_is_not_taken_for_ours(tmp_path):
    save_encoder("bert", tmp_path)
    assert load_published(str(tmp_path)) is None
    with pytest.raises(ExportError, match="was not published by hf_fsl"):
        backbone_of(build_encoder("bert"), None)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_bfloat16_costs_a_folded_head_no_more_than_rounding(family, tmp_path):
    """The layers in between add nothing to what bfloat16 costs the plain product of rounded features and weights."""
    backbone = load(family, stock_pooling(build_encoder(family)), tmp_path, dtype=torch.bfloat16)
    items = texts(64)
    embeddings = backbone.encode(items)
    head = whitened(embeddings).folded()
    exported = export_model(backbone, head, NAMES)
    assert exported.stock and exported.model.dtype == torch.bfloat16
    inputs = exported.processor(items, return_tensors="pt", padding=True)
    with torch.inference_mode():
        found = exported.model(**inputs).logits.float()
        # What a plain bfloat16 layer would have made of the same features, padded as in this batch.
        features = features_of(exported.model, inputs, family)
        plain = torch.nn.functional.linear(features, head.weight.bfloat16(), head.bias.bfloat16()).float()
    exact = head(features.float())
    rounding = (centred(plain) - centred(exact)).square().mean().sqrt()
    assert (centred(found) - centred(exact)).square().mean().sqrt() <= 2 * rounding


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_float16_is_refused_where_it_would_cost_the_logits(family, tmp_path):
    backbone = load(family, stock_pooling(build_encoder(family)), tmp_path, dtype=torch.float16)
    exported = export_model(backbone, random_head(32), NAMES)
    assert exported.stock == (family in ("distilbert", "eurobert"))
    assert exported.stock or "values that float16 does not have" in exported.reason


def features_of(model, inputs, family):
    hidden = model.base_model(**inputs).last_hidden_state
    if family not in ("eurobert", "modernbert"):
        return hidden[:, 0]
    mask = inputs["attention_mask"].unsqueeze(-1)
    return (hidden * mask).sum(1) / mask.sum(1)


def test_a_head_of_too_many_classes_for_a_rectifier_is_refused(tmp_path):
    backbone = load("distilbert", "cls", tmp_path)
    names = [f"class {number}" for number in range(17)]
    assert export_model(backbone, random_head(32, 16), names[:16]).stock
    with pytest.raises(ExportError, match="lets 16 classes through unchanged; this head has 17"):
        export_model(backbone, random_head(32, 17), names, stock=True)


def test_what_does_not_fold_is_said(tmp_path):
    backbone = load("bert", "mean", tmp_path)
    for head, pooling, normalize, why in [
        (random_head(32), "mean", False, "BertForSequenceClassification classifies by cls or pooler, and these"),
        (random_head(32), "cls", True, "The backbone's embeddings are L2-normalised"),
        (random_head(32, normalize=True), "cls", False, "The head's features are L2-normalised"),
        (CacheHead(torch.eye(3, 32), torch.eye(3), torch.zeros(3, 32), 1.0, 1.0), "cls", False, "cache is not linear"),
    ]:
        backbone.modules.pooling, backbone.modules.normalize = pooling, normalize
        with pytest.raises(ExportError, match=why):
            export_model(backbone, head, NAMES, stock=True)


def test_linear_layers_behind_the_pooling_fold_and_others_do_not(tmp_path):
    backbone = load("bert", "cls", tmp_path)
    torch.manual_seed(5)
    backbone.modules.dense = [torch.nn.Sequential(torch.nn.Linear(32, 12), torch.nn.Identity()).eval()]
    head = random_head(12)
    exported = export_model(backbone, head, NAMES, stock=True)
    with torch.inference_mode():
        found = exported.model(**exported.processor(["the cat sleeps"], return_tensors="pt")).logits
    torch.testing.assert_close(found, head(backbone.encode(["the cat sleeps"])), atol=1e-4, rtol=0)
    with pytest.raises(ExportError, match="took in a dense layer"):
        backbone_of(exported.model, exported.processor)
    backbone.modules.dense = [torch.nn.Sequential(torch.nn.Linear(32, 12), torch.nn.Tanh()).eval()]
    with pytest.raises(ExportError, match="a dense layer with an activation"):
        export_model(backbone, head, NAMES, stock=True)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "a"]])
def test_label_names_must_fit(names, tmp_path):
    with pytest.raises(ExportError, match="label names|Label names must differ; more than once: a"):
        export_model(load("bert", "cls", tmp_path), random_head(32), names)


def test_a_head_of_many_episodes_is_refused(tmp_path):
    with pytest.raises(ExportError, match="no batch dimensions"):
        export_model(load("bert", "cls", tmp_path), LinearHead(torch.zeros(5, 3, 32), torch.zeros(5, 3)), NAMES)


def test_the_backbone_is_left_as_it_was(tmp_path):
    backbone = load("bert", "cls", tmp_path)
    before, embeddings = dict(backbone.model.config.to_dict()), backbone.encode(texts())
    export_model(backbone, whitened(embeddings), NAMES)
    assert backbone.model.config.to_dict() == before
    torch.testing.assert_close(backbone.encode(texts()), embeddings, atol=0, rtol=0)


def test_the_published_tokenizer_cuts_lowers_and_prompts_as_the_backbone_does(tmp_path):
    backbone = load("bert", "cls", tmp_path / "encoder", max_length=9)
    modules = backbone.modules
    modules.prompts, modules.default_prompt, modules.lower_case = {"query": "the good "}, "query", True
    backbone = Backbone(backbone.model, backbone.tokenizer, modules=modules, name="test")
    items = [text.upper() for text in texts()]
    head = whitened(backbone.encode(items))
    exported = export_model(backbone, head, NAMES, stock=True)
    folder = publish(exported, tmp_path / "published")
    ((_, found),) = in_fresh_process(tmp_path, [job(folder, "text", items, tmp_path)])[0].items()
    torch.testing.assert_close(centred(found), centred(head(backbone.encode(items))), atol=1e-4, rtol=0)
    again = backbone_of(exported.model, exported.processor)
    torch.testing.assert_close(again.encode(items), backbone.encode(items), atol=1e-5, rtol=1e-5)


def test_patch_poolings_are_of_images(tmp_path):
    save_encoder("bert", tmp_path)
    with pytest.raises(ValueError, match="is of image encoders"):
        Backbone.from_pretrained(str(tmp_path), pooling="patch_mean")
