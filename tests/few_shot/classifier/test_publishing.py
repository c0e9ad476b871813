"""A classifier grown, saved, pushed, and loaded back."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from hashlib import sha256

import httpx2
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.exceptions import NotFittedError

from hf_fsl import AdaptationConfig, AdapterConfig, Backbone, FewShotClassifier
from hf_fsl.few_shot.classifier import publishing
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.hub.local import running
from hf_fsl.hub.push import PublishError, UselessModel
from hf_fsl.models.export.loading import weights_digest
from tests.helpers import folders
from tests.helpers.encoders import pictures as draw
from tests.helpers.encoders import save_encoder
from tests.helpers.folders import config_with
from tests.helpers.launching import ROOT

TEXTS = ["the cat runs", "a dog sleeps", "the bird runs", "the red house", "a blue car", "the green train"]
LABELS = ["animal"] * 3 + ["thing"] * 3
MORE, MORE_LABELS = ["a fish sleeps", "a big house"], ["animal", "thing"]
WATER, WATER_LABELS = ["the rain is big", "a river and the rain"], ["water", "water"]
_STOCK = """
import json, sys
from transformers import pipeline
classify = pipeline("text-classification", model=sys.argv[1], top_k=None)
assert "hf_fsl" not in sys.modules
print(json.dumps([{row["label"]: row["score"] for row in rows} for rows in classify(sys.argv[2:])]))
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return Backbone.from_pretrained(str(save_encoder("bert", tmp_path_factory.mktemp("bert"))))


@pytest.mark.parametrize("head", ["nearest_mean", "lda", "ridge", "cl2n", "auto", "logistic", "cache"])
def test_what_is_loaded_predicts_refuses_and_grows_as_what_was_saved(backbone, head, tmp_path):
    classifier = FewShotClassifier(backbone, head=head, coverage=0.7, keep_support=True).fit(TEXTS, LABELS)
    classifier.save_pretrained(tmp_path / "model")
    for name in ("README.md", "config.json", "few_shot/state.json"):
        assert str(tmp_path) not in (tmp_path / "model" / name).read_text(), "paths of this machine stay here"
    again = FewShotClassifier.from_pretrained(str(tmp_path / "model"))
    assert again.classes_.tolist() == classifier.classes_.tolist() and again.reason_ == classifier.reason_
    for one in (classifier, again):
        one.add_examples(MORE, MORE_LABELS)
        one.add_classes(WATER, WATER_LABELS)
    assert again.classes_.tolist() == ["animal", "thing", "water"]
    new = [*TEXTS, "the sun", "a red fish"]
    np.testing.assert_allclose(again.decision_function(new), classifier.decision_function(new), atol=2e-5)
    np.testing.assert_allclose(again.refusal_scores(new), classifier.refusal_scores(new), atol=1e-5)
    assert (again.refuses(new) == classifier.refuses(new)).all()
    assert head == "cache" or again.predict(WATER).tolist() == WATER_LABELS


def test_growing_is_a_refit_with_what_was_chosen_held(backbone):
    one = FewShotClassifier(backbone, head="nearest_mean", use_label_texts=False).fit(TEXTS, LABELS)
    whole = FewShotClassifier(backbone, head="nearest_mean", use_label_texts=False).fit(
        TEXTS + MORE, LABELS + MORE_LABELS
    )
    one.add_examples(MORE, MORE_LABELS)
    ours, theirs = (x.logits(WATER) / np.ptp(x.logits(WATER)) for x in (one, whole))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)  # but for the temperature, which was held
    assert one.state_.counts == (4, 4)


@pytest.mark.parametrize(
    ("X", "y", "new", "message"),
    [
        (MORE, ["animal", "thing"], True, "there already"),
        (WATER, WATER_LABELS, False, "no classes of this model"),
        (WATER, [1, 1], True, "all texts or all numbers"),
        ([], [], False, "0 examples"),
    ],
)
def test_growing_refuses_what_does_not_fit(backbone, X, y, new, message):
    classifier = FewShotClassifier(backbone).fit(TEXTS, LABELS)
    with pytest.raises(FewShotError, match=message):
        (classifier.add_classes if new else classifier.add_examples)(X, y)
    logistic = FewShotClassifier(backbone, head="logistic").fit(TEXTS, LABELS)
    with pytest.raises(FewShotError, match="keep_support=True"):
        logistic.add_examples(MORE, MORE_LABELS)


def test_a_head_that_folds_is_published_as_a_stock_class(tmp_path):
    source = str(save_encoder("bert", tmp_path / "bert"))
    classifier = FewShotClassifier(source, pooling="stock", use_label_texts=False).fit(TEXTS, LABELS)
    classifier.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"] == [
        "BertForSequenceClassification"
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-c", _STOCK, str(tmp_path / "model"), *MORE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = [dict(zip(classifier.classes_, row, strict=True)) for row in classifier.predict_proba(MORE)]
    for found, wanted in zip(json.loads(done.stdout.splitlines()[-1]), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)
    again = FewShotClassifier.from_pretrained(str(tmp_path / "model")).add_examples(MORE, MORE_LABELS)
    np.testing.assert_allclose(
        again.predict_proba(WATER), classifier.add_examples(MORE, MORE_LABELS).predict_proba(WATER), atol=1e-4
    )


def test_a_model_whose_weights_were_replaced_is_refused(backbone, tmp_path):
    FewShotClassifier(backbone).fit(TEXTS, LABELS).save_pretrained(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(FewShotError, match="somebody replaced one of the two"):
        FewShotClassifier.from_pretrained(str(tmp_path / "model"))
    with pytest.raises(FewShotError, match="holds no few-shot model"):
        FewShotClassifier.from_pretrained(str(save_encoder("bert", tmp_path / "encoder")))


def test_a_model_whose_tokenizer_was_replaced_is_refused(backbone, tmp_path):
    FewShotClassifier(backbone).fit(TEXTS, LABELS).save_pretrained(tmp_path / "model")
    settings, state = tmp_path / "model" / "tokenizer_config.json", tmp_path / "model" / "few_shot" / "state.json"
    settings.write_text(settings.read_text().replace('"model_max_length": 64', '"model_max_length": 8'))
    with pytest.raises(FewShotError, match="tokenizer or image processor is not what"):
        FewShotClassifier.from_pretrained(str(tmp_path / "model"))
    older = {
        key: value for key, value in json.loads(state.read_text()).items() if key not in ("processor", "temperature")
    }
    state.write_text(json.dumps(older))  # as hf_fsl wrote them before
    assert FewShotClassifier.from_pretrained(str(tmp_path / "model")).predict(TEXTS).tolist() == LABELS


def test_a_model_of_before_loads_and_grows(backbone, tmp_path):
    """Until 0.2 label texts were ``words``, and the estimator "anchored" was "prior"."""
    classifier = FewShotClassifier(backbone, head="anchored").fit(
        TEXTS, LABELS, label_texts={"animal": "a cat", "thing": "a car"}
    )
    classifier.save_pretrained(tmp_path / "model")
    place = tmp_path / "model" / "few_shot"
    with safe_open(place / "state.safetensors", "pt") as file:
        notes = {"growing_head": file.metadata()["growing_head"].replace("anchored", "prior")}
        save_file({name: file.get_tensor(name) for name in file.keys()}, tmp_path / "before", notes)  # noqa: SIM118
    shutil.move(tmp_path / "before", place / "state.safetensors")
    settings = json.loads((place / "state.json").read_text())
    settings["words"] = settings.pop("label_texts")
    settings |= {"estimator": "prior", "state": sha256((place / "state.safetensors").read_bytes()).hexdigest()}
    (place / "state.json").write_text(json.dumps(settings))
    again = FewShotClassifier.from_pretrained(str(tmp_path / "model"))
    assert again.state_.label_texts == ("a cat", "a car") and again.state_.estimator == "anchored"
    for one in (classifier, again):
        one.add_classes(WATER, WATER_LABELS, label_texts={"water": "the rain"})
    np.testing.assert_allclose(again.logits(TEXTS), classifier.logits(TEXTS), atol=2e-5)


def test_a_damaged_state_is_told(backbone, tmp_path):
    FewShotClassifier(backbone).fit(TEXTS, LABELS).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "few_shot" / "state.json"
    whole = json.loads(path.read_text())
    broken = [json.dumps({key: value for key, value in whole.items() if key != left_out}) for left_out in whole]
    later = {"hf_fsl", "temperature", "processor", "state", "class_weights"}
    broken = [text for text in broken if not later - set(json.loads(text))]
    for text in [*broken, "", "[]", json.dumps(whole)[:200], json.dumps({**whole, "counts": 3})]:
        path.write_text(text)
        with pytest.raises(FewShotError, match="damaged or incomplete"):
            FewShotClassifier.from_pretrained(str(tmp_path / "model"))
    path.write_text(json.dumps(whole))
    (path.parent / "state.safetensors").write_bytes(b"")
    with pytest.raises(FewShotError, match="damaged or incomplete"):
        FewShotClassifier.from_pretrained(str(tmp_path / "model"))


@pytest.mark.parametrize(("pooling", "head"), [(None, "auto"), ("stock", "auto"), (None, "logistic")])
def test_the_temperature_is_published(backbone, tmp_path, pooling, head):
    source = str(save_encoder("bert", tmp_path / "bert")) if pooling else backbone
    classifier = FewShotClassifier(source, pooling=pooling, head=head, use_label_texts=False).fit(TEXTS, LABELS)
    assert classifier.state_.temperature == pytest.approx(classifier.choice_.temperature) != 1
    classifier.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    noted = config["hf_fsl"] if pooling else config
    assert noted["logit_temperature"] == pytest.approx(classifier.choice_.temperature)
    again = FewShotClassifier.from_pretrained(str(tmp_path / "model"))
    assert again.state_.temperature == classifier.state_.temperature


def test_the_temperature_of_an_adapted_model_is_that_of_its_held_out_examples(backbone):
    config = AdaptationConfig(steps=3, batch_size=6, examples_per_class=2)
    classifier = FewShotClassifier(backbone, adapter=AdapterConfig(r=2), adaptation=config, head="nearest_mean")
    state = classifier.fit(TEXTS, LABELS).state_
    assert state.temperature != classifier.choice_.temperature and state.temperature == state.growing.temperature


def test_names_alone_fold_into_a_stock_class(tmp_path):
    source, words = str(save_encoder("bert", tmp_path / "bert")), {"animal": "the cat", "thing": "the car"}
    folded = FewShotClassifier(source, pooling="stock").fit([], [], label_texts=words)
    assert not folded.head_.transform.normalize
    folded.save_pretrained(tmp_path / "model", stock=True)
    plain = FewShotClassifier(source, pooling="cls").fit([], [], label_texts=words)
    assert folded.predict(TEXTS).tolist() == plain.predict(TEXTS).tolist()
    ratio = folded.predict_proba(TEXTS).max(1).mean() / plain.predict_proba(TEXTS).max(1).mean()
    assert 0.8 < ratio < 1.25  # as sure of itself as with unit length


def test_a_class_of_words_alone_leaves_refusal_as_it_was(backbone):
    config = AdaptationConfig(steps=3, batch_size=6, examples_per_class=2)
    words = {"animal": "the cat", "thing": "the house", "water": "the river"}
    classifier = FewShotClassifier(backbone, adapter=AdapterConfig(r=2), adaptation=config, coverage=0.7)
    classifier.fit(TEXTS, LABELS, label_texts=words)
    before = classifier.state_.refusal
    after = classifier.add_examples(["the cat runs"], ["animal"]).state_.refusal
    assert before.means.shape == after.means.shape and after.means.norm(dim=-1).min() > 0.1
    assert classifier.add_examples(WATER, WATER_LABELS).state_.refusal.means.shape[0] == 3


def _card(endpoint):
    answer = httpx2.get(f"{endpoint}/me/few/raw/main/README.md", headers={"Authorization": "Bearer secret"})
    return ModelCard(answer.raise_for_status().text)


@pytest.mark.slow
def test_an_adapted_model_is_pushed_with_its_adapter_and_loaded_from_the_hub(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    config = AdaptationConfig(steps=3, batch_size=6, examples_per_class=2)
    classifier = FewShotClassifier(backbone, adapter=AdapterConfig(r=2), adaptation=config, folds=0)
    classifier.fit(TEXTS, LABELS)
    with running(tmp_path / "hub", token="secret") as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        result = classifier.push_to_hub("me/few", token="secret")
        files = HfApi(endpoint=endpoint, token="secret").list_repo_files("me/few")
        card = _card(endpoint)
        assert TEXTS[0] not in card.content and 'classify("a text")' in card.content
        assert result.changed and {"adapter/adapter_config.json", "few_shot/state.json", "README.md"} <= set(files)
        with monkeypatch.context() as patch:  # the same model was verified a moment ago
            patch.setattr(publishing, "verify_model", lambda *_: (0.0, 1.0))
            assert not classifier.push_to_hub("me/few", token="secret").changed
            assert classifier.push_to_hub("me/few", token="secret", share_examples=True).changed
            card = _card(endpoint)
            assert f'classify("{TEXTS[0]}")' in card.text and card.data.widget[0] == {"text": TEXTS[0]}
        loaded = FewShotClassifier.from_pretrained(str(classifier.save_pretrained(tmp_path / "model")))
        assert loaded.push_to_hub("me/copy", token="secret").changed
        with pytest.raises(NotFittedError):
            FewShotClassifier(backbone).push_to_hub("me/nothing", token="secret")
        with pytest.raises(PublishError, match="repo_id: user/name"):
            loaded.push_to_hub("few", token="secret")
        done = subprocess.run(
            [sys.executable, "-c", "from hf_fsl import FewShotClassifier\nimport json, sys\n"
             "c = FewShotClassifier.from_pretrained('me/few', token='secret')\n"
             "print(json.dumps(c.predict_proba(sys.argv[1:]).tolist()))", *MORE],
            env={"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"},
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), classifier.predict_proba(MORE), atol=1e-5)


def test_pictures_are_published_too(tmp_path):
    backbone = Backbone.from_pretrained(str(save_encoder("clip", tmp_path / "clip")))
    images = draw(6)
    words = {0: "the cat", 1: "the house"}
    classifier = FewShotClassifier(backbone).fit(images, [0, 1] * 3, label_texts=words)
    classifier.save_pretrained(tmp_path / "model")
    again = FewShotClassifier.from_pretrained(str(tmp_path / "model"))
    np.testing.assert_allclose(again.decision_function(images), classifier.decision_function(images), atol=1e-4)
    again.add_examples(images[:2], [0, 1])
    with pytest.raises(FewShotError, match="without the encoder that read them"):
        again.add_classes(images[:1], [2], label_texts={2: "the tree"})


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_keeps_what_others_put_there(backbone, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    (folder / "notes").mkdir(parents=True)
    theirs = {"LICENSE": "mine", "notes/a.txt": "a", "vocab.txt": "old", ".hidden": "h", "other.safetensors": "x"}
    for name, text in theirs.items():
        (folder / name).write_text(text)
    (folder / "model-00001-of-00002.safetensors").write_text("of a model that was here")
    classifier = FewShotClassifier(backbone).fit(TEXTS, LABELS)
    monkeypatch.chdir(folder)
    for _ in range(2):
        classifier.save_pretrained(".")
        assert {name: (folder / name).read_text() for name in theirs} == theirs
        assert FewShotClassifier.from_pretrained(".").predict(TEXTS).tolist() == LABELS
    assert "model-00001-of-00002.safetensors" not in files_of(folder)
    assert not [name for name in files_of(folder) if name.endswith(".tmp")]


def test_what_an_earlier_save_wrote_and_this_one_does_not_goes(backbone, tmp_path):
    folder = tmp_path / "model"
    config = AdaptationConfig(steps=3, batch_size=6, examples_per_class=2)
    FewShotClassifier(backbone, adapter=AdapterConfig(r=2), adaptation=config, folds=0).fit(
        TEXTS, LABELS
    ).save_pretrained(folder)
    before = files_of(folder)
    assert {"adapter/adapter_config.json", "configuration_few_shot.py"} <= before
    source = str(save_encoder("bert", tmp_path / "bert"))
    classifier = FewShotClassifier(source, pooling="stock", use_label_texts=False).fit(TEXTS, LABELS)
    classifier.save_pretrained(folder)
    assert files_of(folder) == files_of(classifier.save_pretrained(tmp_path / "fresh"))
    assert not (folder / "adapter").exists()
    outside = tmp_path / "outside.txt"
    outside.write_text("of somebody else")
    listed = folder / "few_shot" / "files.json"
    listed.write_text(json.dumps({"../outside.txt": "", "README.md": None, str(outside): ""}))
    classifier.save_pretrained(folder)
    assert outside.read_text() == "of somebody else"


def test_an_edited_card_stays_and_that_is_said(backbone, tmp_path):
    classifier = FewShotClassifier(backbone).fit(TEXTS, LABELS)
    card = classifier.save_pretrained(tmp_path / "model") / "README.md"
    classifier.add_examples(MORE, MORE_LABELS).save_pretrained(tmp_path / "model")
    ours = card.read_text()
    card.write_text(ours + "\nMine.\n")
    for _ in range(2):
        with pytest.warns(UserWarning, match="README.md was written, or edited, by others and stays"):
            classifier.save_pretrained(tmp_path / "model")
        assert card.read_text().endswith("Mine.\n")
    card.unlink()
    classifier.save_pretrained(tmp_path / "model")
    assert card.read_text() == ours


def test_a_file_in_the_folders_place_is_refused(backbone, tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(FewShotError, match="model is a file, and a model is saved into a folder"):
        FewShotClassifier(backbone).fit(TEXTS, LABELS).save_pretrained(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


def state_with(tensors=None, **settings):
    """A change of few_shot/ as somebody would make it who knows of the checksum."""

    def change(folder):
        path = folder / "few_shot" / "state.json"
        values = json.loads(path.read_text())
        if tensors is not None:
            weights = path.with_name("state.safetensors")
            with safe_open(weights, "pt") as file:
                notes = file.metadata()
            save_file(tensors(load_file(weights)), weights, notes)
            del values["state"]
        path.write_text(json.dumps({**values, **settings}))

    return change


def weights_with(change):
    """As of somebody who knows of the checksum."""

    def changed(folder):
        folders.weights_with(change)(folder)
        state = json.loads((folder / "few_shot" / "state.json").read_text())
        (folder / "few_shot" / "state.json").write_text(json.dumps({**state, "weights": weights_digest(folder)}))

    return changed


def nan_in(name):
    return lambda tensors: {**tensors, name: torch.full_like(tensors[name], torch.nan)}


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def one_more_row(name):
    return lambda tensors: {**tensors, name: torch.cat([tensors[name], tensors[name][:1]])}


def twice_the_first_class(tensors):
    return {**tensors, "head.counts": tensors["head.counts"][[0, 0]], "head.sums": tensors["head.sums"][[0, 0]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (weights_with(lambda _: {}), "no weights for .* would be random"),
        (weights_with(without("head.weight")), "no weights for head.weight"),
        (weights_with(nan_in("head.bias")), "head.bias hold NaN"),
        (weights_with(nan_in("backbone.embeddings.word_embeddings.weight")), "hold NaN or infinite values"),
        (weights_with(one_more_row("head.weight")), "does not load as a few-shot model"),
        (weights_with(lambda tensors: {**tensors, "head.extra": torch.ones(2)}), "head.extra have no place in it"),
        (config_with(architectures=["BertModel"]), "names the classes .'BertModel'., and it can be one of"),
        (config_with(architectures=[]), "names the classes"),
        (config_with(id2label={"0": "animal", "1": "animal"}), "each needs one of its own"),
        (config_with(id2label={"0": "animal", "1": "water"}), "are not those of few_shot"),
        (state_with(nan_in("head.sums")), "damaged or incomplete: head.sums hold NaN"),
        (state_with(one_more_row("head.counts")), "damaged or incomplete"),
        (state_with(twice_the_first_class), "two of its classes are the same"),
        (state_with(classes=["animal", "animal"]), "a class is there twice"),
        (state_with(classes=["animal", "thing", "water"]), "it is of 3 classes"),
        (state_with(state="0"), "state.safetensors is not what was written"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100), "somebody replaced one of the two"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights as safetensors"),
    ],
)
def test_weights_and_states_that_do_not_fit_are_refused(saved, tmp_path, change, message):
    shutil.copytree(saved, tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(FewShotError, match=message):
        FewShotClassifier.from_pretrained(str(tmp_path / "model"))


@pytest.fixture(scope="module")
def saved(backbone, tmp_path_factory):
    classifier = FewShotClassifier(backbone, head="nearest_mean", use_label_texts=False).fit(TEXTS, LABELS)
    return classifier.save_pretrained(tmp_path_factory.mktemp("saved") / "model")


def test_what_left_out_examples_do_not_show_to_be_of_use_is_not_pushed(backbone, monkeypatch):
    texts = [f"{text} {word}" for text in TEXTS for word in ("and", "the", "is", "cat", "dog", "big", "red", "sun")]
    labels = [label for label in LABELS for _ in range(8)]
    classifier = FewShotClassifier(backbone, use_label_texts=False).fit(texts, labels)
    right = classifier.choice_.held_out_logits.argmax(1) == classifier.support_labels_
    assert f"leave-one-out accuracy {float(right.double().mean()):.3f}" in classifier.reason_
    assert right.double().mean() > 0.9 and publishing.doubt_of(classifier.publishable()) is None
    classifier.choice_ = dataclasses.replace(
        classifier.choice_, held_out_logits=classifier.choice_.held_out_logits.roll(1, dims=1)
    )
    assert "accuracy on 48 held-out examples is 0." in publishing.doubt_of(classifier.publishable())
    with pytest.raises(UselessModel, match="me/m was not pushed: .* push_anyway=True pushes it"):
        classifier.push_to_hub("me/m")
    monkeypatch.setattr(publishing, "export", lambda *arguments: pytest.fail("asked for, it is on its way"))
    with pytest.raises(pytest.fail.Exception):
        classifier.push_to_hub("me/m", push_anyway=True)
    few = FewShotClassifier(backbone).fit(TEXTS, LABELS)  # six left out one by one say nothing
    few.choice_ = dataclasses.replace(few.choice_, held_out_logits=few.choice_.held_out_logits.roll(1, dims=1))
    assert publishing.doubt_of(few.publishable()) is None


def test_a_saved_model_loads_without_a_word_of_other_models(saved):
    command = "import sys\nfrom hf_fsl import FewShotClassifier\nFewShotClassifier.from_pretrained(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", command, str(saved)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "instantiate a model of type" not in done.stderr


@pytest.mark.parametrize("given", [{"coverage": 0.5}, {"backbone": "x"}, {"templates": ["a {}"]}])
def test_what_a_published_model_holds_is_not_changed_by_loading(backbone, tmp_path, given):
    FewShotClassifier(backbone).fit(TEXTS, LABELS).save_pretrained(tmp_path / "model")
    (name,) = given
    with pytest.raises(FewShotError, match=f"{name}: held by a published model.*set_params"):
        FewShotClassifier.from_pretrained(str(tmp_path / "model"), **given)
    with pytest.raises(FewShotError, match="no option shots; there are .*head"):
        FewShotClassifier.from_pretrained(str(tmp_path / "model"), shots=3)
    assert FewShotClassifier.from_pretrained(str(tmp_path / "model"), head="ridge").head == "ridge"


def test_classes_of_the_same_examples_are_not_saved(backbone, tmp_path):
    texts = ["good film", "good film", "red cat"] * 2
    with pytest.warns(UserWarning, match="given again for another class"):
        classifier = FewShotClassifier(backbone, head="nearest_mean", use_label_texts=False).fit(
            texts, ["x"] * 3 + ["y"] * 3
        )
    with pytest.raises(FewShotError, match="would not load again: two of its classes are the same"):
        classifier.save_pretrained(tmp_path / "model")
    with pytest.raises(FewShotError, match="would not load again"):  # the recipe's way
        publishing.export(classifier.publishable())
    assert not (tmp_path / "model" / "model.safetensors").exists()
