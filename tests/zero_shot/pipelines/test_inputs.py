"""What the zero-shot text pipelines take: labels of every kind, data sets, questions that are wrong."""

from __future__ import annotations

import datasets
import numpy as np
import pandas
import pytest
from PIL import Image
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_fsl import ZeroShotEmbeddingPipeline, ZeroShotTextPipeline
from hf_fsl.zero_shot import ZeroShotError

TEXTS = ["the cat sleeps", "rain and sun", "a very big red house", "good food"]
LABELS = ["food", "big red house", "sun"]


class Stream:
    """May be read, of a length that is not known."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.fixture(scope="module")
def embedding(text_backbone):
    return pipeline(
        "feature-extraction", model=str(text_backbone), pipeline_class=ZeroShotEmbeddingPipeline, device="cpu"
    )


@pytest.fixture
def nli(nli_model, embedding):
    return pipeline(
        "zero-shot-classification", model=str(nli_model), pipeline_class=ZeroShotTextPipeline, device="cpu",
        shortlist_model=embedding.label_encoder.backbone,
    )  # fmt: skip


@pytest.fixture(params=["nli", "embedding"])
def pipe(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    "labels", [np.array(LABELS), dict.fromkeys(LABELS).keys(), KeyDataset([{"x": name} for name in LABELS], "x")]
)
def test_an_iterable_of_texts_with_a_length_is_one_label_set(labels, embedding):
    # As many texts as labels: they could be taken for one label set a text.
    answers = embedding(TEXTS[:3], labels)
    assert answers == embedding(TEXTS[:3], LABELS)
    assert {type(label) for answer in answers for label in answer["labels"]} == {str}


def test_arrays_and_data_sets_may_hold_a_label_set_for_each_text(embedding):
    sets = [["food", "sun"], ["cat", "dog"]]
    expected = embedding(TEXTS[:2], sets)
    assert embedding(TEXTS[:2], np.array(sets)) == expected
    assert embedding(TEXTS[:2], KeyDataset([{"x": own} for own in sets], "x")) == expected
    assert embedding(TEXTS[:2], (own for own in ["food, sun,", ["cat", "dog"]])) == expected


def test_a_description_may_be_of_a_label_in_another_texts_set(embedding):
    described = {"label_texts": {"dog": "river"}}
    first, second = embedding(TEXTS[:2], [["food", "sun"], ["cat", "dog"]], **described)
    assert first == embedding(TEXTS[0], ["food", "sun"])
    assert second == embedding(TEXTS[1], ["cat", "dog"], **described) != embedding(TEXTS[1], ["cat", "dog"])


def test_data_sets_are_streamed_and_have_a_length(pipe):
    rows = KeyDataset(datasets.Dataset.from_dict({"text": TEXTS}), "text")
    answers = pipe(rows, candidate_labels=LABELS)
    assert len(answers) == 4
    assert list(answers) == pipe(TEXTS, LABELS)
    with pytest.raises(TypeError):
        len(pipe(iter(TEXTS), LABELS))


def test_the_evidence_of_one_text_and_of_none(pipe):
    assert np.array_equal(pipe.evidence(TEXTS[0], LABELS), pipe.evidence(TEXTS[:1], LABELS))
    assert pipe.evidence([], LABELS).shape == (0, 3)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (None, {}, "needs candidate_labels"),
        ([], {}, "at least one candidate label"),
        (iter([]), {}, "at least one candidate label"),
        ([["sun"], []], {}, "at least one candidate label"),
        (["sun", "cat", "sun"], {}, "more than once: sun"),
        ({"sun", "cat"}, {}, "no order"),
        (5, {}, "got int 5"),
        ([5, 6], {}, "got int 5"),
        (Stream(["sun", "cat"]), {}, "got 'sun'. Make a list of it"),
        ([["sun"], ["cat"], ["dog"]], {}, "one list of labels for each text.* got 3 for 2 texts"),
        (LABELS, {"hypothesis_template": None}, "got None"),
        (LABELS, {"hypothesis_template": "no place"}, "one place"),
        (LABELS, {"hypothesis_template": []}, "At least one template"),
        (LABELS, {"label_texts": ["sun"]}, "label_texts: a mapping"),
        (LABELS, {"label_texts": {"horse": "a car"}}, "Texts for horse, .* are food, .*Take them out"),
        ([["sun"], ["cat"]], {"label_texts": {"cat": "a pet", "horse": "a car"}}, "Texts for horse, but"),
        (LABELS, {"shortlist": 0}, "shortlist"),
    ],
)
def test_a_question_that_is_wrong_is_refused_at_once(labels, options, message, pipe):
    class Unread(list):
        def __iter__(self):
            pytest.fail("a text was read")

    texts = Unread(TEXTS[:2])
    with pytest.raises(ZeroShotError, match=message):
        pipe(texts, labels, **options)
    if "texts" not in message:
        with pytest.raises(ZeroShotError, match=message):
            pipe((pytest.fail("a text was read") for _ in range(1)), labels, **options)


def test_a_question_that_the_model_cannot_answer_is_refused_at_once(nli):
    nli.scorer.contradiction_id = None
    with pytest.raises(ZeroShotError, match="contradiction_id"):
        nli(iter(TEXTS), LABELS, multi_label=True)


@pytest.mark.parametrize("texts", [5, None, {"text": "a cat"}])
def test_what_holds_no_texts_is_refused(texts, embedding):
    with pytest.raises(ZeroShotError, match="A text, a list of texts, a generator or a data set"):
        embedding(texts, LABELS)
    with pytest.raises(ZeroShotError, match="KeyDataset"):
        embedding([{"text": "a cat"}], LABELS)
    with pytest.raises(ZeroShotError, match="2 columns"):
        embedding(datasets.Dataset.from_dict({"text": TEXTS, "label": TEXTS}), LABELS)


def test_frames_and_columns_are_texts(pipe):
    expected = pipe(TEXTS, LABELS)
    for column in (pandas.DataFrame({"text": TEXTS}), pandas.Series(TEXTS), np.array(TEXTS)):
        assert pipe(column, LABELS) == expected
    with pytest.raises(ZeroShotError, match="got bytes"):
        pipe(b"the cat", LABELS)


def test_what_is_no_text_is_refused_in_its_turn(pipe, tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    for wrong, why in (
        (str(tmp_path / "a.png"), "the path of a picture"), ("half \ud83d", "half of a surrogate pair"),
        (pandas.NA, "got <NA>"), (b"cat", "got b'cat'"),
    ):  # fmt: skip
        with pytest.raises(ZeroShotError, match=why):
            pipe(["the cat", wrong], LABELS)
    with pytest.raises(ZeroShotError, match="The candidate label .* holds half of a surrogate pair"):
        pipe(TEXTS, ["cat", "sun \ud83d"])
    assert pipe("http://127.0.0.1:9/a.png", LABELS)["sequence"] == "http://127.0.0.1:9/a.png"


@pytest.mark.parametrize("size", [0, -1, 2.5, "2", True])
def test_a_shortlist_is_a_number_of_labels(size, nli, nli_model):
    with pytest.raises(ZeroShotError, match=f"shortlist: a whole number of labels, 1 or more.* got {size!r}"):
        nli(TEXTS, LABELS, shortlist=size)
    with pytest.raises(ZeroShotError, match="shortlist"):
        pipeline("zero-shot-classification", model=str(nli_model), pipeline_class=ZeroShotTextPipeline, shortlist=size)
    assert nli(TEXTS, LABELS, shortlist=np.int64(2)) == nli(TEXTS, LABELS, shortlist=2)


def test_a_label_prior_is_of_all_labels_whatever_the_pipelines_shortlist(nli, nli_model):
    expected = nli.fit_calibration(TEXTS, LABELS)
    short = pipeline(
        "zero-shot-classification", model=str(nli_model), pipeline_class=ZeroShotTextPipeline, device="cpu",
        shortlist_model=nli._shortlist_model, shortlist=1,
    )  # fmt: skip
    assert short.fit_calibration(TEXTS, LABELS) == expected
    assert nli.fit_calibration(TEXTS, LABELS, shortlist=1) == expected


def test_what_is_learned_from_texts_is_learned_for_one_question(nli):
    for learn in (nli.fit_calibration, nli.fit_shortlist, nli.evidence):
        with pytest.raises(ZeroShotError, match="the same for all texts"):
            learn(TEXTS[:2], [["sun", "cat"], ["food"]])


def test_a_window_ends_where_its_pairs_are_enough_whatever_the_first_text_asks(nli, monkeypatch):
    monkeypatch.setattr("hf_fsl.zero_shot.pipelines.text.WINDOW_PAIRS", 10)
    seen, logits = [], nli.scorer.logits
    nli.scorer.logits = lambda texts, hypotheses, pairs, **options: (
        seen.append(len(pairs)) or logits(texts, hypotheses, pairs, **options)
    )
    many = ["food", "sun", "cat", "dog"]
    nli(TEXTS * 3, [["sun"]] + [many] * 11)
    assert seen == [9, *[8] * 4, 4]
    seen.clear()
    nli(TEXTS, LABELS, hypothesis_template=["the {}", "a {}"])
    assert seen == [6] * 4
