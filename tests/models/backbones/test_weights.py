"""Repositories whose weights are not there, not whole, of another model, or pickled; and code nobody asked for."""

from __future__ import annotations

import io
import json
import shutil
import sys
import zlib

import httpx2
import huggingface_hub
import peft
import pytest
import torch
import transformers
from huggingface_hub import HfApi, constants
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import pipeline

import hf_fsl.auto  # noqa: F401
from hf_fsl import Backbone, FewShotClassifier
from hf_fsl.cli.main import main
from hf_fsl.config import ModelConfig
from hf_fsl.core.errors import UserError
from hf_fsl.core.task import Task
from hf_fsl.hub.local import running
from hf_fsl.models.backbones import load_classifier
from hf_fsl.models.backbones.weights import damaged_files, load_weights
from hf_fsl.zero_shot.clip import ImageTextScorer
from tests.helpers.folders import config_with, weights_with
from tests.helpers.image_text import image_text_model, processors
from tests.helpers.tiny_models import build_model, image_sizes, write_tokenizer

TASK = Task(modality="text", label_names=("a", "b", "c"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Folder with a tiny BERT classifier whose classes have names."""
    folder = tmp_path_factory.mktemp("classifier")
    model = build_model("bert")
    model.config.id2label = dict(enumerate(TASK.label_names))
    model.config.label2id = TASK.label2id
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def as_backbone(folder):
    return Backbone.from_pretrained(str(folder)).encode(["the cat"])


def as_pipeline(folder):
    pipe = pipeline("few-shot-classification", model=str(folder), device="cpu", trust_remote_code=False)
    return pipe("the cat", support={"a": ["a dog"], "b": ["the sun"]})


def as_body(folder):
    return load_classifier(ModelConfig(model_name_or_path=str(folder)), TASK)


def as_few_shot(folder):
    return FewShotClassifier(str(folder)).fit(["a cat", "the sun"], ["a", "b"])


def predict(folder):
    """What the command line says where it does not answer."""
    heard, sys.stderr = sys.stderr, io.StringIO()
    try:
        if main(["predict", str(folder), "the cat"]):
            raise UserError(sys.stderr.getvalue())
    finally:
        sys.stderr = heard


def evaluate(folder):
    data = folder.parent / f"{folder.name}.jsonl"
    data.write_text("\n".join(json.dumps({"text": f"the {word}", "label": word[0]}) for word in ("a", "b", "c")))
    heard, sys.stderr = sys.stderr, io.StringIO()
    try:
        if main(["evaluate", str(folder), str(data), "--split", "train"]):
            raise UserError(sys.stderr.getvalue())
    finally:
        sys.stderr = heard


ENCODERS, CLASSIFIERS = (as_backbone, as_pipeline, as_body, as_few_shot), (predict, evaluate)


def changed_copy(source, tmp_path, change):
    folder = tmp_path / "model"
    shutil.copytree(source, folder)
    change(folder)
    return folder


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


WORDS, BIAS = "bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.output.dense.bias"
FOR_ALL = {
    "no tensors": (weights_with(lambda _: {}), "no weights for|weights of its body are missing"),
    "one missing": (
        weights_with(lambda tensors: {name: value for name, value in tensors.items() if name != BIAS}),
        "no weights for|weights of its body are missing",
    ),
    "NaN": (weights_with(lambda tensors: {**tensors, WORDS: tensors[WORDS] * torch.nan}), "hold NaN or infinite"),
    "infinity": (weights_with(lambda tensors: {**tensors, BIAS: tensors[BIAS] + torch.inf}), "hold NaN or infinite"),
    "misshapen": (config_with(intermediate_size=32), "does not load|weights of its body are missing or of other"),
    "one layer more": (config_with(num_hidden_layers=1), "of another model than its config.json says: bert.encoder"),
    "one bias more": (
        weights_with(lambda tensors: {**tensors, "bert.encoder.layer.0.output.dense.scale": torch.ones(32)}),
        "have no place in it",
    ),
    "cut": (lambda folder: written("model.safetensors", (folder / "model.safetensors").read_bytes()[:9000])(folder),
            "does not load"),
    "empty": (written("model.safetensors", b""), "does not load"),
    "pickled": (pickled, "safetensors alone, never from pickles"),
    "deep": (written("config.json", b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"), "does not load"),
    "no text": (written("config.json", b"\xff\xfe{}"), "does not load"),
    "a list": (written("config.json", b"[]"), "does not load"),
    "types": (config_with(hidden_size="x"), "does not load"),
    "negative": (config_with(hidden_size=-4), "does not load"),
    "dtype": (config_with(dtype="float99"), "does not load"),
    "tokenizer": (written("tokenizer.json", b'{"version": "1.0"'), "does not load"),
    "adapter": (lambda folder: pickled_adapter(folder), "its adapter has no adapter_model.safetensors"),
}  # fmt: skip


READ_BY_THE_STOCK_PIPELINE = ("deep", "no text", "a list", "types", "negative", "dtype", "tokenizer")


def pickled_adapter(folder):
    adapted = peft.get_peft_model(build_model("bert"), peft.LoraConfig(task_type="SEQ_CLS"))
    adapted.save_pretrained(folder)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


@pytest.fixture(autouse=True)
def no_pickles(monkeypatch):
    """Nothing here opens one."""

    def refuse(*_, **__):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", refuse)


@pytest.mark.parametrize("case", FOR_ALL)
def test_what_is_not_whole_is_refused_by_all(classifier, tmp_path, case):
    change, message = FOR_ALL[case]
    folder = changed_copy(classifier, tmp_path, change)
    for load in (*ENCODERS, *CLASSIFIERS):
        if load is not as_pipeline or case not in READ_BY_THE_STOCK_PIPELINE:
            with pytest.raises(UserError, match=message):
                load(folder)


@pytest.mark.parametrize("load", [*ENCODERS, *CLASSIFIERS])
def test_what_is_whole_is_loaded(classifier, load):
    load(classifier)


def test_what_a_model_does_without_may_be_there(classifier, tmp_path):
    extra = {"cls.predictions.bias": torch.ones(3), "bert.embeddings.position_ids": torch.arange(64).unsqueeze(0),
             "bert.other.dense.weight": torch.ones(2)}  # fmt: skip
    folder = changed_copy(classifier, tmp_path, weights_with(lambda tensors: {**tensors, **extra}))
    for load in (*ENCODERS, *CLASSIFIERS):
        load(folder)


HEADLESS = {
    "encoder": (lambda folder: build_model("bert").bert.save_pretrained(folder), "holds BertModel"),
    "no head": (
        weights_with(lambda tensors: {n: v for n, v in tensors.items() if not n.startswith("classifier")}),
        "no weights for classifier.bias, classifier.weight: what it answers would be random",
    ),
    "NaN in the head": (
        weights_with(lambda tensors: {**tensors, "classifier.bias": tensors["classifier.bias"] * torch.nan}),
        "classifier.bias hold NaN",
    ),
    "names": (config_with(id2label={"0": "a", "1": "b", "2": "a"}), "each needs one of its own"),
}


@pytest.mark.parametrize("case", HEADLESS)
def test_a_classifier_without_a_head_does_not_answer(classifier, tmp_path, case):
    change, message = HEADLESS[case]
    folder = changed_copy(classifier, tmp_path, change)
    for load in CLASSIFIERS:
        with pytest.raises(UserError, match=message):
            load(folder)
    as_backbone(folder)


def test_an_image_text_model_is_whole_or_refused(tmp_path):
    image_text_model("clip").save_pretrained(tmp_path)
    for part in processors("clip", tmp_path).values():
        part.save_pretrained(tmp_path)
    ImageTextScorer.from_pretrained(str(tmp_path))
    weights_with(lambda tensors: {n: v for n, v in tensors.items() if n != "text_projection.weight"})(tmp_path)
    with pytest.raises(UserError, match="no weights for text_projection.weight"):
        ImageTextScorer.from_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="no weights for text_projection.weight"):
        as_backbone(tmp_path)


CODE = "import pathlib, transformers\npathlib.Path({ran!r}).touch()\nclass Own(transformers.{base}):\n    pass\n"


def test_code_of_a_repository_is_neither_run_nor_asked_about(classifier, tmp_path, monkeypatch):
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(classifier, folder)
    (folder / "own.py").write_text(CODE.format(ran=str(ran), base="BertConfig"))
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer")
    config_with(model_type="own", auto_map={name: "own.Own" for name in names})(folder)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for load in (*ENCODERS, *CLASSIFIERS):
        with pytest.raises((UserError, ValueError)):
            load(folder)
    assert not ran.exists()


def test_code_named_by_the_encoder_of_a_few_shot_model_is_not_run(tmp_path, monkeypatch, text_backbone):
    ran = tmp_path / "ran"
    model = FewShotClassifier(str(text_backbone)).fit(["a cat", "the sun"], ["a", "b"])
    folder = model.save_pretrained(tmp_path / "model", stock=False)
    (folder / "own.py").write_text(CODE.format(ran=str(ran), base="BertModel"))
    settings = json.loads((folder / "config.json").read_text())
    settings["backbone_config"]["auto_map"] = {"AutoModel": f"{folder}--own.Own"}
    (folder / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    FewShotClassifier.from_pretrained(str(folder)).predict(["a dog"])
    as_pipeline(folder)
    assert not ran.exists()
    settings["dense"] = [{"in_features": 32, "out_features": 32, "bias": True, "activation": "Module"}]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="does not load as a few-shot model"):
        FewShotClassifier.from_pretrained(str(folder))


def test_a_metric_that_is_a_script_needs_trust(classifier, tmp_path, capsys):
    script = tmp_path / "mine" / "mine.py"
    script.parent.mkdir()
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "data.jsonl").write_text('{"text": "the cat", "label": "a"}\n')
    command = ["evaluate", str(classifier), str(tmp_path / "data.jsonl"), "--metrics", str(script.parent)]
    assert main(command) == 1
    assert "would be run as scripts" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_a_damaged_file_of_the_cache_is_named(classifier, tmp_path, monkeypatch, text_backbone):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    few_shot = FewShotClassifier(str(text_backbone)).fit(["a cat", "the sun"], ["a", "b"])
    few_shot.save_pretrained(tmp_path / "few")
    with running(tmp_path / "hub") as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        # Tokenizers ask by functions whose address was taken at import.
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", endpoint)
        resolve = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
        api = HfApi(endpoint=endpoint, token=False)
        for name, folder in (("me/stock", classifier), ("me/few", tmp_path / "few")):
            api.create_repo(name)
            api.upload_folder(repo_id=name, folder_path=folder)
        as_backbone("me/stock")
        as_pipeline("me/few")
        assert damaged_files("me/stock") == damaged_files("me/few") == []
        for name, load in (("me/stock", as_backbone), ("me/few", as_pipeline), ("me/few", as_few_shot_model)):
            (snapshot,) = (tmp_path / "cache" / f"models--{name.replace('/', '--')}" / "snapshots").iterdir()
            blob = (snapshot / "model.safetensors").resolve()
            whole = blob.read_bytes()
            for content in (whole[:5000], whole[:-8] + bytes(8) if name == "me/few" else whole[:5000]):
                blob.write_bytes(content)
                with pytest.raises((UserError, ValueError), match=f"to be removed and fetched again: {blob}"):
                    load(name)
            blob.unlink()
            load(name)
            assert damaged_files(name) == []


def as_few_shot_model(name):
    return FewShotClassifier.from_pretrained(name)


def test_a_model_that_ties_or_buffers_its_weights_is_whole(tmp_path):
    for kind in ("vit", "dinov2", "clip", "convnext", "resnet", "roberta", "distilbert", "modernbert"):
        model = build_model(kind)
        model.save_pretrained(tmp_path / kind)
        loaded, missing = load_weights(type(model), str(tmp_path / kind))
        assert not missing, kind
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), (kind, name)


@pytest.mark.parametrize(
    "error",
    [
        OSError("Consistency check failed: file should be of size 9 but has size 5"),
        httpx2.RemoteProtocolError("peer closed connection without sending complete message body"),
        SafetensorError("incomplete metadata"),
        EOFError(),
        KeyError("hidden_size"),
        RuntimeError("size mismatch"),
        zlib.error("incorrect data check"),
    ],
)
def test_a_download_that_was_cut_is_one_clear_error(classifier, monkeypatch, error):
    def cut(*_, **__):
        raise error

    for name in ("AutoModel", "AutoModelForSequenceClassification"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", cut)
    for load in (*ENCODERS, *CLASSIFIERS):
        with pytest.raises(UserError, match="does not load"):
            load(classifier)


def test_buffers_must_be_finite_too(tmp_path):
    model = build_model("resnet")
    next(value for name, value in model.named_buffers() if "running_var" in name).fill_(torch.nan)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="running_var hold NaN"):
        load_weights(type(model), str(tmp_path))


def test_what_a_layer_does_without_is_no_stray_weight(tmp_path):
    config = transformers.ViTConfig(**image_sizes())
    transformers.ViTForMaskedImageModeling(config).save_pretrained(
        tmp_path
    )  # has a mask token, which ViTModel has not
    load_weights(transformers.ViTModel, str(tmp_path))


def test_the_head_of_many_classes_is_no_body(tmp_path):
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, image_size=32, hidden_size=8)
    transformers.MobileNetV2Model(config).save_pretrained(tmp_path)
    transformers.MobileNetV2ImageProcessor().save_pretrained(tmp_path)
    task = Task(modality="image", label_names=tuple(map(str, range(2000))))
    assert load_classifier(ModelConfig(model_name_or_path=str(tmp_path)), task).model.config.num_labels == 2000
