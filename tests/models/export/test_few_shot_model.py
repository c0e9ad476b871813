"""Heads that fold into no stock class: our class gives what backbone and head gave, to whoever loads it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from hf_fsl.hub.seed import minilm_folder
from hf_fsl.models import published as published_code
from hf_fsl.models.backbones import Backbone
from hf_fsl.models.export import (
    CacheHead,
    ExportError,
    FeatureTransform,
    FewShotConfig,
    FewShotForSequenceClassification,
    LinearHead,
    backbone_of,
    export_model,
)
from tests.helpers.encoders import pictures, save_encoder, texts
from tests.helpers.publishing import NAMES, in_fresh_process, job, publish, random_head, whitened
from tests.helpers.tiny_models import text_sizes, write_tokenizer

LONG = " ".join(texts(30))


def text_backbone(folder, family="bert", dtype=torch.float32, **modules):
    backbone = Backbone.from_pretrained(str(save_encoder(family, folder)), dtype=dtype)
    for name, value in modules.items():
        setattr(backbone.modules, name, value)
    return Backbone(backbone.model, backbone.tokenizer, modules=backbone.modules, name=backbone.name)


def image_backbone(folder, family):
    return Backbone.from_pretrained(str(save_encoder(family, folder)))


def dual_encoder(folder):
    """Like those that ``train_contrastive`` publishes: ConvNeXt beside BERT."""
    import transformers as t

    torch.manual_seed(0)
    config = t.VisionTextDualEncoderConfig.from_vision_text_configs(
        t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=16, hidden_size=16),
        t.BertConfig(**text_sizes()),
        projection_dim=12,
    )
    t.VisionTextDualEncoderModel(config).save_pretrained(folder)
    write_tokenizer(folder)
    t.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return Backbone.from_pretrained(str(folder))


def dense(seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Sequential(torch.nn.Linear(32, 10), torch.nn.Tanh()).eval()]


def unit(head):
    """The same weights over features of length 1."""
    transform = FeatureTransform(head.transform.centre, head.transform.projection, normalize=True)
    return LinearHead(head.weight, head.bias * 0, transform)


def cached(embeddings):
    keys = torch.nn.functional.normalize(embeddings[:6], dim=-1)
    values = torch.nn.functional.one_hot(torch.arange(6) % 3, 3).float()
    prior = torch.randn(3, embeddings.shape[1], generator=torch.Generator().manual_seed(1))
    return CacheHead(keys, values, prior, alpha=torch.tensor(2.5), beta=3.0, scale=1.7)


PROMPTED = {"prompts": {"query": "the good "}, "default_prompt": "query"}
CASES = {
    "mean of BERT, normalised": (lambda path: text_backbone(path, normalize=True, max_length=12), whitened),
    "a prompt that is not pooled": (lambda path: text_backbone(path, include_prompt=False, **PROMPTED), whitened),
    "dense layer": (lambda path: text_backbone(path, pooling="cls", dense=dense(), normalize=True), whitened),
    "normalised features": (lambda path: text_backbone(path, "roberta"), lambda z: unit(whitened(z))),
    "bfloat16": (lambda path: text_backbone(path, dtype=torch.bfloat16, normalize=True), whitened),
    "key-value cache": (lambda path: text_backbone(path, "modernbert", normalize=True), cached),
    "text tower of CLIP": (lambda path: image_backbone(path, "clip"), whitened),
    "pooler of ViT": (lambda path: image_backbone(path, "vit"), lambda z: unit(whitened(z))),
    "image tower of CLIP": (lambda path: image_backbone(path, "clip"), lambda z: unit(whitened(z))),
    "image tower of SigLIP": (lambda path: image_backbone(path, "siglip"), cached),
    "dual encoder": (dual_encoder, lambda z: unit(whitened(z))),
    "mean of ConvNeXt's states": (lambda path: image_backbone(path, "convnext"), lambda z: unit(whitened(z))),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Every case exported, saved, and loaded by two fresh processes: without hf_fsl, and by ``hf_fsl.auto``."""
    work, jobs, made = tmp_path_factory.mktemp("published"), [], {}
    for number, (name, (backbone, head)) in enumerate(CASES.items()):
        backbone = backbone(work / f"encoder-{number}")
        modality = "text" if backbone.image_processor is None or name.startswith("text") else "image"
        items = [*texts(), LONG] if modality == "text" else pictures()
        if name == "text tower of CLIP":
            items = texts()
        embeddings = backbone.encode(items)
        head = head(embeddings)
        exported = export_model(backbone, head, NAMES, modality=modality, stock=None if number else False)
        assert not exported.stock
        jobs.append(job(publish(exported, work / f"published-{number}"), modality, items, work, trust=True))
        made[name] = (backbone, head, items, exported, head(embeddings))
    alone, answers = in_fresh_process(work, jobs)
    registered, again = in_fresh_process(work, [one | {"trust": False} for one in jobs], "--registered")
    folders = [one["folder"] for one in jobs]
    return {
        name: (*made[name], alone[folder], registered[folder], answers[folder], again[folder], folder)
        for name, folder in zip(CASES, folders, strict=True)
    }


@pytest.mark.parametrize("case", CASES)
def test_whoever_loads_it_gets_the_logits_of_backbone_and_head(case, published):
    _, _, _, exported, expected, alone, registered, answer, again, _ = published[case]
    kind = type(exported.model).__name__
    assert answer == again == [kind, NAMES[expected[0].argmax()]]
    # A batch is padded otherwise in bfloat16 than one that encode makes, and rounds otherwise.
    tolerance = 1e-5 if exported.model.dtype == torch.float32 else 2e-2
    for found in (alone, registered):
        torch.testing.assert_close(found, expected, atol=tolerance * float(expected.abs().max().clamp(min=1)), rtol=0)
    assert len(set(expected.argmax(1).tolist())) > 1


@pytest.mark.parametrize("case", CASES)
def test_further_examples_are_encoded_in_the_same_space(case, published):
    backbone, _, items, exported, _, *_, folder = published[case]
    model = type(exported.model).from_pretrained(folder)
    again = backbone_of(model, exported.processor)
    more = texts(8, seed=3) if isinstance(items[0], str) else pictures()
    torch.testing.assert_close(again.encode(more), backbone.encode(more), atol=1e-5, rtol=1e-5)
    assert again.name == backbone.name and again.dimension == backbone.dimension


@pytest.mark.parametrize("case", CASES)
def test_the_head_that_was_saved_is_the_head_that_is_loaded(case, published):
    _, head, _, exported, _, *_, folder = published[case]
    model, info = type(exported.model).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    again = model.head.head()
    assert type(again) is type(head) and again.transform.normalize == head.transform.normalize
    embeddings = torch.randn(5, exported.model.config.embedding_size)
    torch.testing.assert_close(again(embeddings), head(embeddings), atol=0, rtol=0)


@pytest.mark.parametrize("case", ["mean of BERT, normalised", "a prompt that is not pooled"])
def test_texts_are_cut_where_the_caller_of_the_pipeline_does_not_ask_for_it(case, published):
    backbone, head, _, _, _, *_, folder = published[case]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    items = [LONG, "the cat sleeps", " ".join([LONG, LONG])]
    inputs = tokenizer(items, padding=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] > 64
    model = FewShotForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        logits = model(**inputs).logits
        alone = model(input_ids=tokenizer(LONG, return_tensors="pt")["input_ids"]).logits
    torch.testing.assert_close(logits, head(backbone.encode(items)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone[0], logits[0], atol=1e-5, rtol=1e-5)


def test_a_bundle_holds_flat_files_that_need_transformers_only(published):
    folder = Path(published["dual encoder"][-1])
    code = {path.stem for path in folder.glob("*.py")}
    assert code == {"configuration_few_shot", "modeling_few_shot", "linear_head", "cache_head", "pooling"}
    for path in folder.glob("*.py"):
        assert path.read_bytes() == (Path(published_code.__file__).parent / path.name).read_bytes()
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {f"{'.' * node.level}{node.module}" for node in nodes if isinstance(node, ast.ImportFrom)}
        tops = {name.partition(".")[0] for name in names if not name.startswith(".")}
        assert tops <= {"torch", "transformers", "collections", "dataclasses", "typing", "__future__"}
        assert {name[1:] for name in names if name.startswith(".")} <= code
    assert json.loads((folder / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_few_shot.FewShotConfig",
        "AutoModelForImageClassification": "modeling_few_shot.FewShotForImageClassification",
    }
    assert {path.suffix for path in folder.iterdir()} == {".py", ".json", ".safetensors"}


def test_only_the_tower_that_is_used_is_published(published):
    for case in ("dual encoder", "image tower of CLIP", "text tower of CLIP", "mean of BERT, normalised"):
        model = published[case][3].model
        names = set(model.state_dict())
        assert not [name for name in names if "pooler" in name or "logit_scale" in name], case
        assert not (any("text_model" in name for name in names) and any("vision" in name for name in names)), case


def test_labels_give_a_loss_that_trains_head_and_encoder(published):
    for case in ("mean of BERT, normalised", "dual encoder", "key-value cache"):
        _, _, items, exported, _, *_, folder = published[case]
        model = type(exported.model).from_pretrained(folder)
        options = {} if model.main_input_name == "pixel_values" else {"padding": True, "truncation": True}
        inputs = exported.processor(items[:4], return_tensors="pt", **options)
        labels = torch.tensor([0, 1, 2, 0])
        output = model(**inputs, labels=labels)
        torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
        output.loss.backward()
        assert all(parameter.grad is not None for parameter in model.head.parameters())
        assert any(parameter.grad.abs().sum() > 0 for parameter in model.backbone.parameters())


def test_the_config_says_what_the_model_does(published):
    config = FewShotConfig.from_pretrained(published["a prompt that is not pooled"][-1])
    assert (config.pooling, config.prompt, config.skipped_tokens) == ("mean", "the good ", 3)
    assert (config.modality, config.head, config.closing_tokens, config.max_tokens) == ("text", "linear", 1, 64)
    assert config.label2id == {"cat": 0, "dog": 1, "a bird": 2} and config.num_labels == 3
    assert config.problem_type == "single_label_classification"
    again = FewShotConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()


def test_temperature_and_threshold_are_noted(tmp_path):
    for pooling in ("cls", "mean"):
        backbone = text_backbone(tmp_path / pooling, pooling=pooling)
        exported = export_model(backbone, random_head(32), NAMES, temperature=0.5, refusal_threshold=1.5)
        exported.model.save_pretrained(tmp_path / f"published-{pooling}")
        settings = json.loads((tmp_path / f"published-{pooling}" / "config.json").read_text())
        noted = settings["hf_fsl"] if exported.stock else settings
        assert (noted["logit_temperature"], noted["refusal_threshold"]) == (0.5, 1.5)


def test_the_encoder_takes_the_attention_that_is_asked_for(published):
    folder = published["mean of BERT, normalised"][-1]
    for name in ("eager", "sdpa"):
        model = FewShotForSequenceClassification.from_pretrained(folder, attn_implementation=name)
        assert model.backbone.config._attn_implementation == name


def test_what_cannot_be_published_is_said(tmp_path):
    siglip = image_backbone(tmp_path / "siglip", "siglip")
    with pytest.raises(ExportError, match="texts padded to a fixed length"):
        export_model(siglip, random_head(32), NAMES, modality="text")
    bert = text_backbone(tmp_path / "bert", normalize=True)
    with pytest.raises(ExportError, match="encodes no images"):
        export_model(bert, random_head(32), NAMES, modality="image")
    bert.modules.dense = [torch.nn.LayerNorm(32)]
    with pytest.raises(ExportError, match="A dense layer is a linear map and an activation"):
        export_model(bert, random_head(32), NAMES)


def test_an_encoder_that_transformers_alone_does_not_build_is_refused(tmp_path):
    from peft import LoraConfig, get_peft_model

    backbone = text_backbone(tmp_path, normalize=True)
    backbone.model = get_peft_model(backbone.model, LoraConfig(target_modules=["query"]))
    with pytest.raises(ExportError, match="Merge an adapter first"):
        export_model(backbone, random_head(32), NAMES)


def test_two_towers_that_are_more_than_encoder_and_projection_are_refused(tmp_path, monkeypatch):
    backbone = image_backbone(tmp_path, "clip")
    original = backbone.model.get_image_features
    monkeypatch.setattr(backbone.model, "get_image_features", lambda **inputs: 2 * original(**inputs).pooler_output)
    with pytest.raises(ExportError, match="embeds images by more than an encoder's pooler and a projection"):
        export_model(backbone, random_head(16), NAMES)


def test_minilm_is_published_as_it_encodes(tmp_path):
    backbone = Backbone.from_pretrained(str(minilm_folder()))
    items = ["a cat", "The match ended two all, and nobody had expected that of either team.", "rain " * 400]
    head = random_head(384)
    exported = export_model(backbone, head, NAMES)
    folder = publish(exported, tmp_path)
    assert not exported.stock and exported.processor.model_max_length == 256
    model = FewShotForSequenceClassification.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(items, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = model(**inputs).logits
    torch.testing.assert_close(found, head(backbone.encode(items)), atol=1e-5, rtol=0)
