"""FewShotClassifier: an estimator of scikit-learn's, over a backbone that it leaves alone."""

from __future__ import annotations

import copy
import datetime
import enum
import json
import re
from decimal import Decimal

import datasets
import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate

from hf_fsl import AdaptationConfig, AdapterConfig, Backbone, FewShotClassifier
from hf_fsl.few_shot.classifier.examples import folds_of, read_examples
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.few_shot.heads import HeadError, choose_head
from hf_fsl.models.backbones.errors import BackboneError
from tests.helpers.encoders import pictures as draw
from tests.helpers.encoders import save_encoder

ANIMALS = ["the cat runs", "a dog sleeps", "the bird runs", "a fish sleeps", "the cat sleeps", "a dog runs"]
THINGS = ["the red house", "a blue car", "the green train", "a big house", "the small car", "a red train"]
TEXTS, LABELS = ANIMALS + THINGS, ["animal"] * 6 + ["thing"] * 6
NEW, NEW_LABELS = ["a bird sleeps", "the fish runs", "the blue train", "a small house"], ["animal"] * 2 + ["thing"] * 2
QUICK = AdaptationConfig(steps=3, batch_size=8, examples_per_class=2)


class Color(enum.Enum):
    RED, BLUE = 1, 2


class Shade(enum.StrEnum):
    DARK, BRIGHT = "dark", "bright"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return Backbone.from_pretrained(str(save_encoder("bert", tmp_path_factory.mktemp("bert"))))


@pytest.fixture(scope="module")
def fitted(backbone):
    return FewShotClassifier(backbone, use_label_texts=False).fit(TEXTS, LABELS)


def test_it_learns_from_a_few_texts(fitted):
    assert fitted.classes_.tolist() == ["animal", "thing"]
    assert fitted.score(NEW, NEW_LABELS) == 1
    assert fitted.predict(datasets.Dataset.from_dict({"text": NEW})["text"]).tolist() == NEW_LABELS
    probabilities = fitted.predict_proba(NEW)
    assert probabilities.shape == (4, 2) and np.allclose(probabilities.sum(1), 1, atol=1e-6)
    assert (fitted.classes_[(fitted.decision_function(NEW) > 0).astype(int)] == fitted.predict(NEW)).all()
    assert fitted.predict([]).tolist() == []
    assert "leave-one-out" in fitted.reason_


def test_numbers_stay_numbers(backbone):
    classifier = FewShotClassifier(backbone).fit(TEXTS, [7] * 6 + [3] * 6)
    assert classifier.classes_.tolist() == [3, 7] and classifier.predict(NEW).tolist() == [7, 7, 3, 3]


def test_scikit_learn_takes_it_for_its_own(backbone):
    classifier = FewShotClassifier(backbone, use_label_texts=False, head="lda")
    assert clone(classifier).get_params()["head"] == "lda"
    assert len(cross_val_score(classifier, TEXTS, LABELS, cv=3)) == 3
    grid = GridSearchCV(classifier, {"head": ["nearest_mean", "ridge"], "adapter": [None, AdapterConfig(r=2)],
                                     "adaptation": [QUICK], "folds": [0]}, cv=2)  # fmt: skip
    grid.fit(TEXTS, LABELS)
    assert set(grid.best_params_) == {"head", "adapter", "adaptation", "folds"}
    grid = GridSearchCV(
        FewShotClassifier(backbone, use_label_texts=False, adaptation=QUICK, folds=2),
        {"adapter": [None, "auto"]},
        cv=2,
    )
    grid.fit(datasets.Dataset.from_dict({"text": TEXTS})["text"][:], LABELS)
    assert "held-out loss" in grid.best_estimator_.set_params(adapter="auto").fit(TEXTS, LABELS).reason_
    with pytest.raises(NotFittedError, match="Call fit"):
        classifier.predict(NEW)


def test_the_fits_of_a_cross_validation_share_the_loaded_backbone(backbone):
    classifier = FewShotClassifier(backbone, use_label_texts=False, head="nearest_mean")
    assert clone(classifier).backbone is backbone
    done = cross_validate(classifier, TEXTS, LABELS, cv=2, return_estimator=True)
    assert all(one.backbone_ is backbone for one in done["estimator"])
    assert copy.deepcopy(backbone).model is not backbone.model  # who asks for a copy gets one


def test_a_column_of_a_data_set_is_learned_from(backbone, fitted):
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS})
    classifier = FewShotClassifier(backbone, use_label_texts=False).fit(
        data["text"], data["label"], unlabeled=data["text"]
    )
    assert np.array_equal(classifier.decision_function(NEW), fitted.decision_function(NEW))


def test_unlabeled_inputs_are_encoded_for_heads_that_centre(backbone, monkeypatch):
    encoded, encode = [], backbone.encode
    monkeypatch.setattr(
        backbone, "encode", lambda inputs, **options: encoded.extend(inputs) or encode(inputs, **options)
    )
    for head in ("auto", "lda", "cl2n"):
        FewShotClassifier(backbone, use_label_texts=False, head=head).fit(TEXTS, LABELS, unlabeled=["the sun"])
        assert ("the sun" in encoded) == (head == "cl2n")


def test_every_fit_starts_from_the_pristine_backbone(backbone):
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    classifier = FewShotClassifier(
        backbone, use_label_texts=False, adapter=AdapterConfig(r=2), adaptation=QUICK, head="nearest_mean", folds=0
    )
    first = classifier.fit(TEXTS, LABELS).decision_function(NEW)
    assert np.array_equal(classifier.fit(TEXTS, LABELS).decision_function(NEW), first)
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    assert not np.allclose(classifier.backbone_.encode(NEW), backbone.encode(NEW))


def test_an_adapter_is_kept_only_where_it_helps(backbone):
    ruinous = AdaptationConfig(steps=40, batch_size=8, examples_per_class=2, learning_rate=10.0, max_grad_norm=None)
    classifier = FewShotClassifier(
        backbone, use_label_texts=False, adapter=AdapterConfig(r=8), keep_adapter="better", adaptation=ruinous
    ).fit(TEXTS, LABELS)
    assert classifier.adapted_ is None and "stays as it is" in classifier.reason_
    one_each = FewShotClassifier(backbone, use_label_texts=False, adapter="auto", adaptation=QUICK)
    assert "nothing can be held out" in one_each.fit([TEXTS[0], TEXTS[6]], ["a", "b"]).reason_


def test_held_out_examples_of_an_adapted_backbone_set_its_temperature(backbone):
    settings = {"use_label_texts": False, "adapter": AdapterConfig(r=4), "head": "nearest_mean"}
    config = AdaptationConfig(steps=20, batch_size=8, examples_per_class=4)
    plain = FewShotClassifier(backbone, folds=0, adaptation=config, **settings).fit(TEXTS, LABELS)
    crossed = FewShotClassifier(backbone, folds=2, adaptation=config, **settings).fit(TEXTS, LABELS)
    ratio = crossed.logits(NEW) / plain.logits(NEW)
    assert np.allclose(ratio, ratio[0, 0], rtol=1e-3) and not np.isclose(ratio[0, 0], 1, rtol=1e-3)


def test_names_alone_are_a_classifier_and_help_one_example(backbone):
    words = {"animal": "the cat", "thing": "the car"}
    nothing = FewShotClassifier(backbone).fit([], [], label_texts=words)
    assert nothing.predict(["the cat", "the car"]).tolist() == ["animal", "thing"]
    one = FewShotClassifier(backbone).fit([TEXTS[0], TEXTS[6]], ["animal", "thing"], label_texts=words)
    assert one.score(NEW, NEW_LABELS) >= 0.75
    with pytest.raises(FewShotError, match="without one: thing"):
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
    with pytest.raises(BackboneError, match="'a text' cannot be read as an image.*takes images"):
        classifier.predict(["a text"])
    with pytest.raises(FewShotError, match="encodes no texts"):
        FewShotClassifier(backbone).fit(pictures, [0, 1] * 4, label_texts={0: "a", 1: "b"})


def test_pictures_are_not_given_to_a_classifier_of_texts(backbone, fitted):
    with pytest.raises(BackboneError, match="encodes texts, not images"):
        FewShotClassifier(backbone).fit(draw(4), ["a", "a", "b", "b"])
    with pytest.raises(BackboneError, match="encodes texts, not images"):
        fitted.predict(draw(1))
    with pytest.raises(BackboneError, match="not mixed; input 0 is a text, input 1 an image"):
        fitted.predict([NEW[0], *draw(1)])


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (TEXTS[:3], ["a", "a", "a"], "two classes or more"),
        (TEXTS[:3], ["a", "b"], "3 examples and 2 labels"),
        (TEXTS[:2], ["a", None], "1 examples have no label"),
        (TEXTS[:3], ["a", "b", pandas.NA], "1 examples have no label .the first is number 2"),
        (TEXTS[:3], ["a", "b", float("nan")], "1 examples have no label"),
        (TEXTS[:3], ["a", "b", " "], "1 examples have no label"),
        (TEXTS[:3], pandas.Series([1, 2, None], dtype="Int64"), "1 examples have no label"),
        (TEXTS[:2], ["a", 1], "all texts or all numbers, got both: 'a' and 1"),
        (TEXTS[:2], [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)], "A label is a text, .*(date)"),
        (TEXTS[:2], np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[ns]"), "A label is a text, .*datetime64"),
        (TEXTS[:2], [Decimal(1), Decimal(2)], "A label is a text, .*Decimal"),
        (TEXTS[:2], [b"a", b"b"], "A label is a text, .*bytes"),
        (TEXTS[:2], np.array([b"a", b"b"]), "A label is a text, .*bytes"),
        (TEXTS[:2], [Color.RED, Color.BLUE], "A label is a text, .*Color"),
        (TEXTS[:2], ["a", "\ud83d"], r"A label is a text, .*got '.ud83d'"),
        (TEXTS[:2], [0.5, 1.0], "A label is a text, a whole number or a boolean, got 0.5"),
        (TEXTS[:2], [["a"], ["a", "b"]], r"one label, got several \(\['a'\]\).*multi_label_classification"),
        (TEXTS[:2], np.array([[0, 1], [1, 0]]), "one label, got several"),
        (TEXTS[:2], torch.tensor([[0, 1], [1, 0]]), "one label, got several"),
        (TEXTS[:2], pandas.DataFrame({"a": [0, 1], "b": [1, 0]}), "one label, got several"),
        (TEXTS[:2], "ab", "2 examples and 1 labels"),
        (TEXTS[:2], {"a": 0, "b": 1}, "Labels are a list in the order of the examples, got a dict"),
        (TEXTS[:2], {"a", "b"}, "Labels are a list in the order of the examples, got a set"),
    ],
)
def test_what_cannot_be_learned_from_is_told(backbone, X, y, message):
    with pytest.raises(FewShotError, match=message):
        FewShotClassifier(backbone).fit(X, y)


def test_words_for_nothing_and_minus_one_are_classes():
    support = read_examples(TEXTS[:3], ["NA", "None", "null"])
    assert support.classes.tolist() == ["NA", "None", "null"]
    assert read_examples(TEXTS[:3], [-1, 0, 1]).classes.tolist() == [-1, 0, 1]


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.array([[1], [2]]), [1, 2]),
        ([["a"], ["b"]], ["a", "b"]),
        (pandas.DataFrame({"label": ["a", "b"]}), ["a", "b"]),
        (torch.tensor([[1], [2]]), [1, 2]),
    ],
)
def test_a_column_of_labels_is_taken_with_a_warning(y, classes):
    with pytest.warns(DataConversionWarning, match="taken for"):
        support = read_examples(TEXTS[:2], y)
    assert support.classes.tolist() == classes and support.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (torch.tensor([1, 0]), [0, 1]),
        (np.array(["b", "a"], dtype=object), ["a", "b"]),
        (pandas.Series(["b", "a"], dtype="category"), ["a", "b"]),
        (pandas.Series([2, 1], dtype="Int64"), [1, 2]),
        ([Shade.DARK, Shade.BRIGHT], ["bright", "dark"]),
        ([np.str_("b"), np.str_("a")], ["a", "b"]),
        ([1.0, 0.0], [0.0, 1.0]),
        ([True, False], [False, True]),
    ],
)
def test_labels_of_every_kind_can_be_written(y, classes):
    support = read_examples(TEXTS[:2], y)
    assert support.labels.tolist() == [1, 0]
    assert json.loads(json.dumps(support.classes.tolist())) == classes


def test_equal_examples_of_two_classes_are_learned_from_with_a_warning(backbone):
    classifier = FewShotClassifier(backbone, use_label_texts=False)
    with pytest.warns(
        UserWarning, match="1 examples are given again .* number 0 .'the cat runs'.*'animal'.*12.*'thing'"
    ):
        classifier.fit([*TEXTS, TEXTS[0]], [*LABELS, "thing"])
    assert classifier.state_.counts == (6, 7)
    support = read_examples([TEXTS[0], TEXTS[0], TEXTS[0], TEXTS[1]], ["a", "b", "b", "a"])
    assert support.distinct.tolist() == [2, 1]


def test_one_label_is_that_of_one_example(fitted):
    grown = copy.deepcopy(fitted).add_examples([NEW[0]], "animal")
    assert grown.state_.counts == (7, 6)
    with pytest.raises(FewShotError, match="have no label"):
        copy.deepcopy(fitted).add_examples(NEW[:2], ["animal", None])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"coverage": 5}, "coverage is a share above 0 and below 1, not 5"),
        ({"coverage": -1}, "coverage is a share"),
        ({"coverage": 1.0}, "coverage is a share"),
        ({"coverage": -1, "adapter": AdapterConfig(r=2), "adaptation": QUICK}, "coverage is a share"),
        ({"use_label_texts": "bogus"}, "use_label_texts is one of 'auto', False, not 'bogus'"),
        ({"use_label_texts": None}, "use_label_texts is one of 'auto', False, not None"),
        ({"head": "prior"}, "head is one of .*, not 'prior', which is now called 'anchored'"),
        ({"adapter": "bogus"}, "adapter is None, 'auto', an AdapterConfig or a peft.PeftConfig, not 'bogus'"),
        ({"keep_adapter": "never"}, "keep_adapter is one of"),
        ({"folds": -1}, "folds is 0, or 2 and more, not -1"),
        ({"folds": 1}, "folds is 0, or 2 and more, not 1"),
        ({"adapter": "auto", "folds": 0}, "folds is 2 or more where an adapter is kept only if it is better"),
        ({"adapter": AdapterConfig(), "keep_adapter": "better", "folds": 0}, "folds is 2 or more"),
        ({"adaptation": {"steps": 3}}, "adaptation is None or an AdaptationConfig, not dict"),
        ({"pooling": "middle"}, "pooling is one of None, 'stock', 'cls'"),
        ({"random_state": "a"}, "random_state is an integer"),
        ({"backbone": 3}, "backbone is a name, a folder or a loaded Backbone, not int"),
        ({"folds": -1, "coverage": 2}, "folds is .*; coverage is"),
    ],
)
def test_parameters_are_checked_by_fit(backbone, parameters, message):
    classifier = FewShotClassifier(**{"backbone": backbone, **parameters})
    with pytest.raises(FewShotError, match=message):
        classifier.fit(TEXTS, LABELS)


def test_an_argument_by_its_old_name_is_told_the_new_one(backbone):
    with pytest.raises(TypeError, match="prior is now called use_label_texts"):
        FewShotClassifier(backbone, prior=None)
    with pytest.raises(TypeError, match="choose_head: prior is now called label_embeddings"):
        choose_head(torch.eye(2), torch.tensor([0, 1]), prior=torch.eye(2))
    with pytest.raises(FewShotError, match="no option prior.*use_label_texts"):
        FewShotClassifier.from_pretrained("anything", prior=None)


def test_equal_examples_are_held_out_together():
    repeated = [*ANIMALS, *ANIMALS[:3], *THINGS, "a sun", "a sun"]
    support = read_examples(repeated, ["animal"] * 9 + ["thing"] * 6 + ["sun"] * 2)
    assert support.distinct.tolist() == [6, 1, 6] and support.counts.tolist() == [9, 2, 6]
    for seed in range(5):
        parts = folds_of(support, 2, seed)
        ours, theirs = ({support.items[row] for row in part} for part in parts)
        assert not ours & theirs and "a sun" not in ours | theirs
        assert sorted(row for part in parts for row in part) == list(range(15))


def test_broken_embeddings_are_told_instead_of_classified(tmp_path):
    backbone = Backbone.from_pretrained(str(save_encoder("bert", tmp_path)))
    classifier = FewShotClassifier(backbone, use_label_texts=False).fit(TEXTS, LABELS)
    with torch.no_grad():
        backbone.model.embeddings.word_embeddings.weight[backbone.tokenizer.vocab["river"]] = torch.nan
    assert classifier.predict(NEW).tolist() == NEW_LABELS
    with pytest.raises(BackboneError, match="Input 2 has an embedding with NaN"):
        classifier.predict([NEW[0], NEW[1], "the river"])


def test_a_head_that_needs_examples_says_what_it_is_without(backbone):
    words = {"animal": "the cat", "thing": "the car"}
    classifier = FewShotClassifier(backbone, head="lda").fit([], [], label_texts=words)
    assert "lda, which was asked for, needs some" in classifier.reason_
    assert "asked for" not in FewShotClassifier(backbone).fit([], [], label_texts=words).reason_


def test_an_unknown_head_is_told(backbone):
    with pytest.raises((FewShotError, HeadError), match="nearest_mean"):
        FewShotClassifier(backbone, head="forest").fit(TEXTS, LABELS)


def test_refusal_lets_the_known_through_and_needs_two_of_a_class(fitted, backbone):
    scores = fitted.refusal_scores(NEW)
    assert scores.shape == (4,) and fitted.refuses(NEW).dtype == bool
    assert fitted.refuses(TEXTS).mean() <= 0.34
    one = FewShotClassifier(backbone, use_label_texts=False).fit([TEXTS[0], TEXTS[6]], ["a", "b"])
    with pytest.raises(FewShotError, match="two supports of every class"):
        one.refuses(NEW)


def test_of_four_examples_refusal_says_what_can_be_had_and_that_can(backbone):
    four, labels = [*ANIMALS[:2], *THINGS[:2]], ["animal"] * 2 + ["thing"] * 2
    classifier = FewShotClassifier(backbone, use_label_texts=False).fit(four, labels)
    with pytest.raises(FewShotError) as told:
        classifier.refuses(NEW)
    assert "coverage=0.9 cannot be told from 4 supports" in str(told.value) and "It takes 9" in str(told.value)
    low, high = map(float, re.search(r"a coverage from ([\d.]+) to ([\d.]+)\.$", str(told.value)).groups())
    assert (low, high) == (0.34, 0.66)
    for coverage in (low, high):
        assert classifier.set_params(coverage=coverage).fit(four, labels).refuses(NEW).shape == (4,)
