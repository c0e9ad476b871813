"""What a few-shot classifier takes for an example: one reader, and a modality that it remembers."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from hf_fsl import FewShotClassifier
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.models.backbones import Backbone, BackboneError
from tests.helpers.encoders import pictures as draw
from tests.helpers.encoders import save_encoder

TEXTS = ["a cat sleeps", "the dog runs", "the red train", "a big car"]
LABELS = ["animal", "animal", "thing", "thing"]


@pytest.fixture(scope="module")
def dual(tmp_path_factory):
    return Backbone.from_pretrained(str(save_encoder("clip", tmp_path_factory.mktemp("dual"))))


@pytest.fixture(scope="module")
def text(text_backbone):
    backbone = Backbone.from_pretrained(str(text_backbone))
    return FewShotClassifier(backbone, keep_support=True, coverage=0.5).fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    """Pictures whose folders name their classes, as data often lies on disk."""
    folder, drawn, paths = tmp_path_factory.mktemp("data"), draw(6), []
    for number, picture in enumerate(drawn):
        paths.append(folder / "train" / ("animal", "thing")[number % 2] / f"{number}.png")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        picture.save(paths[-1])
    return drawn, list(map(str, paths)), [path.parent.name for path in paths]


def test_paths_are_pictures_for_a_model_of_both_and_say_nothing_by_their_names(dual, by_class, tmp_path):
    drawn, paths, labels = by_class
    seen = FewShotClassifier(dual, keep_support=True).fit(drawn[:4], labels[:4])
    by_path = FewShotClassifier(dual, keep_support=True).fit(paths[:4], labels[:4], unlabeled=paths[4:])
    expected = seen.predict_proba(drawn)
    for X in (paths, drawn, pandas.Series(paths), pandas.DataFrame({"path": paths})):
        np.testing.assert_allclose(by_path.predict_proba(X), expected, atol=1e-5)
    assert by_path.state_.modality == "image"
    by_path.save_pretrained(tmp_path / "saved")
    for classifier in (by_path, FewShotClassifier.from_pretrained(str(tmp_path / "saved"))):
        assert classifier.state_.modality == "image"
        np.testing.assert_allclose(classifier.predict_proba(paths), expected, atol=1e-4)
        for wrong in (["a cat"], "a cat"):
            with pytest.raises((FewShotError, BackboneError), match="fitted on images|as an image"):
                classifier.predict(wrong)
        with pytest.raises((FewShotError, BackboneError), match="fitted on images|as an image"):
            classifier.add_examples(["a cat"], ["animal"])
    by_path.add_examples(paths[4:], labels[4:])
    seen.add_examples(drawn[4:], labels[4:])
    np.testing.assert_allclose(by_path.predict_proba(paths), seen.predict_proba(drawn), atol=1e-5)


def test_a_classifier_of_texts_takes_no_pictures(dual, text, by_class, tmp_path):
    of_both = FewShotClassifier(dual).fit(TEXTS, LABELS)
    text.save_pretrained(tmp_path / "saved")
    for classifier in (of_both, text, FewShotClassifier.from_pretrained(str(tmp_path / "saved"))):
        for wrong in (by_class[1], by_class[0]):
            with pytest.raises((FewShotError, BackboneError), match="takes texts|fitted on texts|encodes texts"):
                classifier.predict(wrong)
    with pytest.raises(BackboneError, match="takes texts"):
        FewShotClassifier(text.backbone).fit(by_class[1], by_class[2])


def test_nothing_that_a_client_sent_is_opened(dual, by_class):
    closed = FewShotClassifier(dual, open_files=False).fit(TEXTS, LABELS)
    sent = [by_class[1][0], "http://127.0.0.1:9/a.png"]
    assert closed.predict(sent).shape == (2,)
    assert (
        FewShotClassifier(dual, open_files=False).fit([*TEXTS, *sent], [*LABELS, "thing", "thing"]).sample_[4:] == sent
    )


def test_names_alone_leave_the_modality_open(dual, by_class):
    names = FewShotClassifier(dual).fit([], [], label_texts={"animal": "a cat", "thing": "a car"})
    assert names.predict(by_class[1]).shape == (6,) and names.predict(TEXTS).shape == (4,)
    names.add_examples(by_class[1], by_class[2])
    with pytest.raises(FewShotError, match="fitted on images, and was given texts"):
        names.predict(TEXTS)


def test_one_text_gives_one_row(text):
    for method in (text.predict_proba, text.refuses, text.refusal_scores, text.predict):
        assert len(method("horse")) == 1
        assert np.array_equal(method("horse"), method(["horse"]))
    before = text.state_.counts
    grown = FewShotClassifier(text.backbone, keep_support=True).fit(TEXTS, LABELS).add_examples("abc", ["animal"])
    assert sum(grown.state_.counts) == sum(before) + 1


def test_frames_of_one_column_are_columns_and_others_are_refused(text):
    frame = pandas.DataFrame({"text": TEXTS, "label": LABELS})
    again = FewShotClassifier(text.backbone).fit(frame[["text"]], frame["label"])
    assert np.array_equal(again.predict(frame[["text"]]), text.predict(TEXTS))
    assert text.predict(np.array(TEXTS)[:, None]).shape == (4,)
    for wrong, why in (
        (frame, "DataFrame of 2 columns"), ({"text": TEXTS}, "got dict"), (b"horse", "got bytes"),
        ([TEXTS[0], pandas.NA], "input 1 is NAType. It is missing"), (["half \ud83d"], "half of a surrogate pair"),
    ):  # fmt: skip
        for method in (text.predict, text.predict_proba, text.refuses):
            with pytest.raises(BackboneError, match=why):
                method(wrong)
        with pytest.raises(BackboneError, match=why):
            FewShotClassifier(text.backbone).fit(wrong, LABELS)
    assert text.predict([]).shape == (0,)
