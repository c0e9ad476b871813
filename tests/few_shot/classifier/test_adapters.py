"""``adapter/`` of a published classifier: there where it makes the published encoder, and else not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

from hf_fsl import AdaptationConfig, AdapterConfig, Backbone, FewShotClassifier
from hf_fsl.few_shot.adaptation import adapt
from hf_fsl.few_shot.classifier.publishing import write_state
from tests.helpers.encoders import save_encoder

TEXTS = ["the cat runs", "a dog sleeps", "the bird runs", "the red house", "a blue car", "the green train"]
LABELS = ["animal"] * 3 + ["thing"] * 3
QUICK = AdaptationConfig(steps=3, batch_size=6, examples_per_class=2, learning_rate=1e-2)
LORA = AdapterConfig(r=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return str(save_encoder("bert", tmp_path_factory.mktemp("bert")))


def published(classifier: FewShotClassifier, folder: Path) -> tuple[dict, Path]:
    """Weights of the published encoder, and where its adapter would be."""
    classifier.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    return {name.removeprefix("backbone."): value for name, value in weights.items()}, folder / "adapter"


def same_encoder(weights: dict, source: str, adapter: Path) -> bool:
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(source), str(adapter)).merge_and_unload()
    state = model.state_dict()
    return all(torch.allclose(weights[name], value, atol=1e-5) for name, value in state.items() if name in weights)


def test_an_adapter_of_the_named_backbone_is_published_and_makes_the_same_encoder(source, tmp_path):
    classifier = FewShotClassifier(source, adapter=LORA, adaptation=QUICK, folds=0).fit(TEXTS, LABELS)
    weights, adapter = published(classifier, tmp_path / "model")
    assert same_encoder(weights, source, adapter)


def test_an_adapter_on_top_of_an_adapted_backbone_is_not_published(source, tmp_path):
    first = adapt(Backbone.from_pretrained(source), TEXTS, [0] * 3 + [1] * 3, QUICK, adapter=LORA)
    settings = {"adapter": LORA, "adaptation": QUICK, "folds": 0}
    classifier = FewShotClassifier(first.backbone, **settings).fit(TEXTS, LABELS)
    assert not published(classifier, tmp_path / "model")[1].exists()
    again = FewShotClassifier.from_pretrained(str(tmp_path / "model"), **settings).fit(TEXTS, LABELS)
    assert not published(again, tmp_path / "again")[1].exists()


def test_what_was_meta_trained_is_published_with_that_adapter(source, tmp_path):
    trained = adapt(Backbone.from_pretrained(source), TEXTS, [0] * 3 + [1] * 3, QUICK, adapter=LORA)
    classifier = FewShotClassifier(trained.backbone).fit(TEXTS, LABELS)
    weights, _ = published(classifier, tmp_path / "model")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "model.safetensors").write_bytes((tmp_path / "model" / "model.safetensors").read_bytes())
    write_state(classifier.publishable(trained), tmp_path / "bundle")
    assert same_encoder(weights, source, tmp_path / "bundle" / "adapter")


def test_a_backbone_that_was_trained_in_full_is_published_whole(source, tmp_path):
    classifier = FewShotClassifier(source, adapter=AdapterConfig(method="full"), adaptation=QUICK, folds=0)
    assert not published(classifier.fit(TEXTS, LABELS), tmp_path / "model")[1].exists()
    again = FewShotClassifier.from_pretrained(str(tmp_path / "model"))
    assert again.predict(TEXTS).tolist() == classifier.predict(TEXTS).tolist()
