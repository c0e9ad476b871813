"""FewShotClassifier: an estimator of scikit-learn's, over a backbone that it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoders import pictures as draw
from encoders import save_encoder
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score

from hf_fsl import AdaptationConfig, AdapterConfig, Backbone, FewShotClassifier
from hf_fsl.backbones.classification import BackboneError
from hf_fsl.classifier import FewShotError
from hf_fsl.heads import HeadError

ANIMALS = ["the cat runs", "a dog sleeps", "the bird runs", "a fish sleeps", "the cat sleeps", "a dog runs"]
THINGS = ["the red house", "a blue car", "the green train", "a big house", "the small car", "a red train"]
TEXTS, LABELS = ANIMALS + THINGS, ["animal"] * 6 + ["thing"] * 6
NEW, NEW_LABELS = ["a bird sleeps", "the fish runs", "the blue train", "a small house"], ["animal"] * 2 + ["thing"] * 2
QUICK = AdaptationConfig(steps=3, batch_size=8, examples_per_class=2)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return Backbone.from_pretrained(str(save_encoder("bert", tmp_path_factory.mktemp("bert"))))


@pytest.fixture(scope="module")
def fitted(backbone):
    return FewShotClassifier(backbone, prior=None).fit(TEXTS, LABELS)


def test_it_learns_from_a_few_texts(fitted):
    assert fitted.classes_.tolist() == ["animal", "thing"]
    assert fitted.score(NEW, NEW_LABELS) == 1
    probabilities = fitted.predict_proba(NEW)
    assert probabilities.shape == (4, 2) and np.allclose(probabilities.sum(1), 1, atol=1e-6)
    assert (fitted.classes_[fitted.decision_function(NEW).argmax(1)] == fitted.predict(NEW)).all()
    assert fitted.predict([]).tolist() == []
    assert "leave-one-out" in fitted.reason_


def test_numbers_stay_numbers(backbone):
    classifier = FewShotClassifier(backbone).fit(TEXTS, [7] * 6 + [3] * 6)
    assert classifier.classes_.tolist() == [3, 7] and classifier.predict(NEW).tolist() == [7, 7, 3, 3]


def test_scikit_learn_takes_it_for_its_own(backbone):
    classifier = FewShotClassifier(backbone, prior=None, head="lda")
    assert clone(classifier).get_params()["head"] == "lda"
    assert len(cross_val_score(classifier, TEXTS, LABELS, cv=3)) == 3
    grid = GridSearchCV(classifier, {"head": ["nearest_mean", "ridge"], "adapter": [None, AdapterConfig(r=2)],
                                     "adaptation": [QUICK], "folds": [0]}, cv=2)  # fmt: skip
    grid.fit(TEXTS, LABELS)
    assert set(grid.best_params_) == {"head", "adapter", "adaptation", "folds"}
    with pytest.raises(NotFittedError, match="Call fit"):
        classifier.predict(NEW)


def test_every_fit_starts_from_the_pristine_backbone(backbone):
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    classifier = FewShotClassifier(
        backbone, prior=None, adapter=AdapterConfig(r=2), adaptation=QUICK, head="nearest_mean", folds=0
    )
    first = classifier.fit(TEXTS, LABELS).decision_function(NEW)
    assert np.array_equal(classifier.fit(TEXTS, LABELS).decision_function(NEW), first)
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    assert not np.allclose(classifier.backbone_.encode(NEW), backbone.encode(NEW))


def test_an_adapter_is_kept_only_where_it_helps(backbone):
    ruinous = AdaptationConfig(steps=40, batch_size=8, examples_per_class=2, learning_rate=10.0, max_grad_norm=None)
    classifier = FewShotClassifier(
        backbone, prior=None, adapter=AdapterConfig(r=8), keep_adapter="better", adaptation=ruinous
    ).fit(TEXTS, LABELS)
    assert classifier.adapted_ is None and "stays as it is" in classifier.reason_
    one_each = FewShotClassifier(backbone, prior=None, adapter="auto", adaptation=QUICK)
    assert "nothing can be held out" in one_each.fit([TEXTS[0], TEXTS[6]], ["a", "b"]).reason_


def test_held_out_examples_of_an_adapted_backbone_set_its_temperature(backbone):
    settings = {"prior": None, "adapter": AdapterConfig(r=4), "head": "nearest_mean"}
    config = AdaptationConfig(steps=20, batch_size=8, examples_per_class=4)
    plain = FewShotClassifier(backbone, folds=0, adaptation=config, **settings).fit(TEXTS, LABELS)
    crossed = FewShotClassifier(backbone, folds=2, adaptation=config, **settings).fit(TEXTS, LABELS)
    ratio = crossed.decision_function(NEW) / plain.decision_function(NEW)
    assert np.allclose(ratio, ratio[0, 0], rtol=1e-3) and not np.isclose(ratio[0, 0], 1, rtol=1e-3)


def test_names_alone_are_a_classifier_and_help_one_example(backbone):
    words = {"animal": "the cat", "thing": "the car"}
    nothing = FewShotClassifier(backbone).fit([], [], label_texts=words)
    assert nothing.predict(["the cat", "the car"]).tolist() == ["animal", "thing"]
    one = FewShotClassifier(backbone).fit([TEXTS[0], TEXTS[6]], ["animal", "thing"], label_texts=words)
    assert one.score(NEW, NEW_LABELS) >= 0.75
    with pytest.raises(FewShotError, match="without any: thing"):
        FewShotClassifier(backbone).fit(TEXTS, LABELS, label_texts={"animal": "a cat"})


def test_two_pictures_a_class_leave_nothing_to_judge_an_adapter_by(tmp_path):
    backbone, pictures, labels = Backbone.from_pretrained(str(save_encoder("vit", tmp_path))), draw(4), [0, 0, 1, 1]
    auto = FewShotClassifier(backbone, adapter="auto", adaptation=QUICK).fit(pictures, labels)
    assert auto.adapted_ is None and "nothing can be held out" in auto.reason_
    asked = FewShotClassifier(backbone, adapter=AdapterConfig(r=2), adaptation=QUICK).fit(pictures, labels)
    assert asked.adapted_ is not None and asked.predict(pictures).shape == (4,)


def test_images_work_too(tmp_path):
    backbone = Backbone.from_pretrained(str(save_encoder("vit", tmp_path)))
    pictures = draw(8)
    classifier = FewShotClassifier(backbone, head="nearest_mean").fit(pictures, [0, 1] * 4)
    assert classifier.predict(pictures).shape == (8,)
    with pytest.raises(BackboneError, match="encodes images, not texts"):
        classifier.predict(["a text"])
    with pytest.raises(FewShotError, match="encodes no texts"):
        FewShotClassifier(backbone).fit(pictures, [0, 1] * 4, label_texts={0: "a", 1: "b"})


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (TEXTS[:3], ["a", "a", "a"], "two classes or more"),
        (TEXTS[:3], ["a", "b"], "3 examples and 2 labels"),
        (TEXTS[:2], ["a", None], "1 examples have no label"),
        (TEXTS[:2], ["a", 1], "all texts or all numbers"),
    ],
)
def test_what_cannot_be_learned_from_is_told(backbone, X, y, message):
    with pytest.raises(FewShotError, match=message):
        FewShotClassifier(backbone).fit(X, y)


def test_an_unknown_head_is_told(backbone):
    with pytest.raises((FewShotError, HeadError), match="nearest_mean"):
        FewShotClassifier(backbone, head="forest").fit(TEXTS, LABELS)


def test_refusal_lets_the_known_through_and_needs_two_of_a_class(fitted, backbone):
    scores = fitted.refusal_scores(NEW)
    assert scores.shape == (4,) and fitted.refuses(NEW).dtype == bool
    assert fitted.refuses(TEXTS).mean() <= 0.34
    one = FewShotClassifier(backbone, prior=None).fit([TEXTS[0], TEXTS[6]], ["a", "b"])
    with pytest.raises(FewShotError, match="two supports of every class"):
        one.refuses(NEW)
