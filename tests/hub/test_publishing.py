"""Bundles, verification in a fresh process, cards, and pushes: repeated, cut off, refused."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading

import numpy as np
import pytest
import torch
from conftest import build_model, write_tokenizer
from huggingface_hub import HfApi, ModelCard
from PIL import Image

from hf_fsl.adapters import attach_adapter, merge_adapter
from hf_fsl.config import AdapterConfig, FineTuneConfig, HubConfig, load_config, to_dict
from hf_fsl.errors import UserError
from hf_fsl.hub.bundle import write_bundle
from hf_fsl.hub.cards import render_card
from hf_fsl.hub.local import running
from hf_fsl.hub.push import PublishError, push_bundle
from hf_fsl.hub.verify import BundleMismatch, verify_bundle
from hf_fsl.records import (
    Comparison,
    CostRecord,
    DataRecord,
    Measurement,
    ModelRecord,
    RunRecord,
    SeedRecord,
    SplitRecord,
)

TEXTS = ["the cat sleeps", "a good film", "the red house and the big tree"]
NAMES = ["cat|dog", "film", "house"]


def make_record(modality="text", **changes):
    config = to_dict(
        load_config(
            FineTuneConfig,
            None,
            ["--data.path=u/d", "--data.text_column=text", "--model.model_name_or_path=u/base",
             "--hub.license=apache-2.0", "--hub.language=en", "--hub.hub_model_id=me/model"],
        )
    )  # fmt: skip
    measured = {
        "accuracy": Measurement(value=0.75, ci95=(0.7, 0.8), n=40, over="examples"),
        "macro_f1": Measurement(value=0.7, ci95=(0.65, 0.75), n=40),
        "ece": Measurement(value=0.05, ci95=None, n=40),
    }
    seeds = SeedRecord(seed=0, steps=9, best_step=6, wall_seconds=1.5, validation={"accuracy": 0.7}, test=measured)
    counts = dict.fromkeys(NAMES, 4)
    values = {
        "recipe": "fine_tune",
        "command": "accelerate launch recipes/fine_tune.py --config x.yaml",
        "config": config,
        "created": "2026-01-01T00:00:00+00:00",
        "task": {"modality": modality, "label_names": NAMES, "problem_type": "single_label_classification"},
        "data": DataRecord(
            path="u/d",
            revision="abc",
            license="mit",
            splits={n: SplitRecord(name=n, rows=12, class_counts=counts) for n in ("train", "validation", "test")},
        ),
        "model": ModelRecord(
            base_model="u/base", architecture="BertForSequenceClassification",
            adapter={**config["adapter"], "peft": {"r": 8}}, total_parameters=1000, trainable_parameters=15,
        ),
        "runs": [seeds],
        "published_seed": 0,
        "metrics": measured,
        "comparisons": [],
        "confusion_matrix": [[3, 1, 0], [0, 4, 0], [0, 2, 2]],
        "examples": [{"input": 'say "cat"', "label": "film", "score": 0.9}],
        "cost": CostRecord(wall_seconds=100.0),
    }  # fmt: skip
    return RunRecord(**values | changes)


def make_text_bundle(folder):
    model = attach_adapter(build_model("bert"), AdapterConfig(r=2), ["classifier"])
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.eval()
    tokenizer = write_tokenizer(folder / "tokenizer")
    with torch.inference_mode():
        rows = []
        for text in TEXTS:
            encoded = tokenizer(text, return_tensors="pt")
            inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
            rows.append(model(**inputs).logits[0].numpy())
    model.save_pretrained(folder / "adapter")
    merged = merge_adapter(model)
    merged.config.id2label = dict(enumerate(NAMES))
    merged.config.label2id = {name: index for index, name in enumerate(NAMES)}
    bundle = write_bundle(
        folder / "bundle", model=merged, processor=tokenizer, record=make_record(), adapter_dir=folder / "adapter"
    )
    return bundle, np.stack(rows)


@pytest.fixture(scope="module")
def text_bundle(tmp_path_factory):
    """A verified bundle of a tiny adapted BERT, and its logits."""
    bundle, logits = make_text_bundle(tmp_path_factory.mktemp("bundle"))
    return bundle, logits, verify_bundle(bundle, TEXTS, logits)


def test_bundle_holds_what_a_repository_needs_and_loads_as_it_was_trained(text_bundle):
    bundle, logits, result = text_bundle
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {"model.safetensors", "config.json", "README.md", "run_record.json", "adapter/adapter_model.safetensors",
            "adapter/adapter_config.json", "figures/confusion_matrix.png",
            ".eval_results/u--d.yaml"} <= names  # fmt: skip
    assert result.examples == 3 and result.largest_difference <= 1e-5 * result.scale
    assert json.loads((bundle / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "u/base"
    assert Image.open(bundle / "figures" / "confusion_matrix.png").size[0] > 300
    assert not [path for path in bundle.parent.iterdir() if path.name.startswith(".")]
    assert RunRecord.load(bundle / "run_record.json") == make_record()


def test_image_bundle_loads_as_it_was_trained(image_backbone, tmp_path):
    from transformers import ViTImageProcessor

    model = build_model("vit").eval()
    model.config.id2label = dict(enumerate(NAMES))
    processor = ViTImageProcessor.from_pretrained(image_backbone)
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)) for _ in range(3)]
    with torch.inference_mode():
        logits = model(processor(pictures, return_tensors="pt")["pixel_values"]).logits.numpy()
    bundle = write_bundle(tmp_path / "bundle", model=model, processor=processor, record=make_record("image"))
    assert verify_bundle(bundle, pictures, logits).examples == 3
    assert not (bundle / "adapter").exists()


def test_bundle_with_other_logits_is_refused(text_bundle):
    bundle, logits, _ = text_bundle
    with pytest.raises(BundleMismatch, match=r"largest difference .*allowed.*not pushed"):
        verify_bundle(bundle, TEXTS, logits + np.array([0, 0.01, 0], dtype=np.float32))


def test_bundle_that_does_not_load_is_refused(tmp_path):
    bundle, logits = make_text_bundle(tmp_path)
    (bundle / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(BundleMismatch, match="does not load in a fresh process"):
        verify_bundle(bundle, TEXTS, logits)


def test_unverified_or_changed_bundles_are_not_pushed(tmp_path):
    bundle, _ = make_text_bundle(tmp_path)
    hub = HubConfig(hub_model_id="me/model")
    with pytest.raises(BundleMismatch, match="never verified"):
        push_bundle(bundle, hub, endpoint="http://127.0.0.1:9")
    from hf_fsl.hub.verify import Verification, bundle_digest

    note = dataclasses.asdict(Verification(0.0, 1.0, 3, bundle_digest(bundle)))
    (bundle.parent / "bundle.verified.json").write_text(json.dumps(note))
    (bundle / "config.json").write_text("{}")
    with pytest.raises(BundleMismatch, match="changed after it was verified"):
        push_bundle(bundle, hub, endpoint="http://127.0.0.1:9")


def test_pushed_once_twice_to_a_branch_and_as_a_pull_request(text_bundle, tmp_path):
    bundle, _, _ = text_bundle
    with running(tmp_path) as endpoint:
        api = HfApi(endpoint=endpoint, token="any")

        def push(**options):
            hub = HubConfig(hub_model_id="me/x", **options)
            return push_bundle(bundle, hub, token="any", endpoint=endpoint)

        first = push(hub_private_repo=True, commit_message="hello")
        assert first.changed and api.model_info("me/x").private
        history = api.list_repo_commits("me/x")
        assert [commit.title for commit in history] == ["hello", "initial commit"]
        info = api.model_info("me/x")
        assert info.pipeline_tag == "text-classification" and info.library_name == "transformers"
        again = push()
        assert not again.changed and again.commit == first.commit
        assert len(api.list_repo_commits("me/x")) == 2
        api.upload_file(path_or_fileobj=b"old", path_in_repo="stale.txt", repo_id="me/x")
        assert push().changed and not api.file_exists("me/x", "stale.txt")
        branch = push(revision="v2")
        assert not branch.changed and "v2" in {ref.name for ref in api.list_repo_refs("me/x").branches}
        api.upload_file(path_or_fileobj=b"old", path_in_repo="stale.txt", repo_id="me/x")
        pull = push(create_pr=True)
        assert pull.pull_request and api.file_exists("me/x", "stale.txt")
        assert not api.file_exists("me/x", "stale.txt", revision="refs/pr/1")
        assert (
            'model="me/x"' in ModelCard.load(api.hf_hub_download("me/x", "README.md", cache_dir=tmp_path / "c")).text
        )


@pytest.mark.parametrize("token", ["wrong", None])
def test_401_says_how_to_log_in(text_bundle, tmp_path, token):
    with (
        running(tmp_path, token="secret") as endpoint,
        pytest.raises(PublishError, match="hf auth login.*bundle is whole"),
    ):
        push_bundle(text_bundle[0], HubConfig(hub_model_id="me/x"), token=token or "no", endpoint=endpoint)


@pytest.mark.parametrize(("status", "message"), [(404, "is not there"), (409, "in the way"), (412, "somebody pushed")])
def test_refusals_of_the_hub_are_explained(text_bundle, tmp_path, monkeypatch, status, message):
    from hf_fsl.hub.local import api as routes
    from hf_fsl.hub.local.rules import HubError

    def refuse(*args):
        raise HubError(status, "no")

    monkeypatch.setattr(routes, "apply_commit", refuse)
    with running(tmp_path) as endpoint, pytest.raises(PublishError, match=message):
        push_bundle(text_bundle[0], HubConfig(hub_model_id="me/x"), token="any", endpoint=endpoint)


def test_connection_cut_during_a_push_then_repeated(text_bundle, tmp_path, monkeypatch):
    bundle, _, _ = text_bundle
    with running(tmp_path) as endpoint:
        port = int(endpoint.rpartition(":")[2])
        cut = threading.Event()
        proxy = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=_proxy, args=(proxy, port, cut), daemon=True).start()
        through = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        cut.set()
        with pytest.raises(PublishError, match=r"connection to the Hub was lost.*repeat with: hf-fsl push"):
            push_bundle(bundle, HubConfig(hub_model_id="me/x"), token="any", endpoint=through)
        assert HfApi(endpoint=endpoint).list_repo_files("me/x") == []
        cut.clear()
        assert push_bundle(bundle, HubConfig(hub_model_id="me/x"), token="any", endpoint=through).changed
        assert "model.safetensors" in HfApi(endpoint=endpoint).list_repo_files("me/x")
        proxy.close()


def _proxy(listener, port, cut):
    """Passes connections on; while ``cut`` is set, drops them when a commit is sent."""

    def pump(source, target):
        try:
            while data := source.recv(65536):
                if cut.is_set() and b"/commit/" in data:
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            end.close()

    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=pump, args=(client, server), daemon=True).start()
        threading.Thread(target=pump, args=(server, client), daemon=True).start()


def test_card_metadata_comes_back_as_it_was_measured():
    card = ModelCard(render_card(make_record()))
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.base_model) == ("transformers", "text-classification", "u/base")
    assert {"hf_fsl", "peft", "lora"} <= set(data.tags) and data.datasets == ["u/d"] and data.license == "apache-2.0"
    results = {result.metric_type: result for result in data.eval_results}
    assert results["accuracy"].metric_value == 0.75 and results["accuracy"].metric_args == {
        "ci95": [0.7, 0.8],
        "n": 40,
    }
    assert results["accuracy"].dataset_revision == "abc" and results["accuracy"].dataset_split == "test"


def test_card_says_unknown_and_escapes_and_is_honest():
    worse = Comparison(
        name="linear_probe",
        metric="accuracy",
        baseline=Measurement(value=0.76, n=40),
        difference=Measurement(value=-0.01, ci95=(-0.05, 0.03), n=40),
    )
    text = render_card(make_record(comparisons=[worse]), repo_id="me/other")
    assert "**This model does not measurably beat that baseline.**" in text
    assert "cat\\|dog" in text and 'print(classify("say \\"cat\\""))' in text
    assert 'pipeline("text-classification", model="me/other")' in text
    assert "| peak memory | unknown |" in text and "| hardware | unknown |" in text
    assert "| expected calibration error | 0.0500 | unknown |" in text
    assert "None" not in text.split("<details><summary>Configuration")[0]


def test_card_of_several_seeds_and_of_an_overlap():
    record = make_record()
    record.runs = [dataclasses.replace(record.runs[0], seed=seed) for seed in (0, 1)]
    record.metrics_over_seeds = {name: Measurement(value=0.5, ci95=(0.4, 0.6), seeds=2) for name in record.metrics}
    record.data.overlap, record.data.on_overlap, record.data.dropped = {"train/test": 3}, "drop_train", 3
    text = render_card(record)
    assert "mean of 2 seeds" in text and "| 0.5000 | [0.4000, 0.6000] |" in text
    assert "train/test 3" in text and "3 examples were dropped" in text
    record.data.on_overlap = "ignore"
    assert "examples seen in training" in render_card(record)


def test_record_of_another_schema_is_refused():
    text = make_record().to_json().replace('"schema_version": 1', '"schema_version": 99')
    with pytest.raises(UserError, match="schema 1, the file has 99"):
        RunRecord.from_json(text)
