"""The zero-shot pipeline of texts against the stock one, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tokenizers import processors
from torch.utils.data import Dataset
from transformers import pipeline

from hf_fsl import ZeroShotTextPipeline
from hf_fsl.zero_shot import ZeroShotError
from hf_fsl.zero_shot.pairs import PairEncoder, pair_layout
from tests.helpers.nli import LABELS, NLI, assert_same, nli_model, pipes, roberta_tokenizer, sentences
from tests.helpers.tiny_models import WORDS, write_tokenizer


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2", "bart"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_answers_are_those_of_the_stock_pipeline(kind, multi_label, tokenizer):
    stock, ours = pipes(kind, tokenizer, max_tokens=128)
    # The longest texts are longer than the model takes: the tokenizer cuts them, and so must we.
    texts = [*sentences(12), *sentences(3, seed=1, longest=150)]
    options = {"hypothesis_template": "the film is {}", "multi_label": multi_label}
    assert_same(ours(texts, LABELS, **options), stock(texts, LABELS, **options))


@pytest.mark.parametrize(("side", "value"), [("padding_side", "left"), ("truncation_side", "left")])
def test_tokenizers_that_pad_or_cut_on_the_left_give_their_own_pairs(side, value, tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    setattr(tokenizer, side, value)
    stock, ours = pipes("bert", tokenizer, max_tokens=128)
    texts = [*sentences(4), *sentences(3, seed=1, longest=150)]
    assert_same(ours(texts, LABELS), stock(texts, LABELS))


def test_pairs_are_joined_as_robertas_tokenizer_does(tmp_path):
    tokenizer = roberta_tokenizer(tmp_path)
    layout = pair_layout(tokenizer, "the cat", "a dog")
    assert (layout.before, layout.between, layout.after, layout.segments) == ((2,), (3, 3), (3,), False)
    stock, ours = pipes("roberta", tokenizer, max_tokens=128)
    texts = [*sentences(6), *sentences(3, seed=1, longest=150)]
    assert_same(ours(texts, LABELS), stock(texts, LABELS))


def test_segment_ids_are_given_where_the_tokenizer_has_them(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert pair_layout(tokenizer, "the cat", "a dog").segments
    stock, ours = pipes("bert", tokenizer, max_tokens=128)
    texts = [*sentences(6), *sentences(3, seed=1, longest=150)]
    assert_same(ours(texts, LABELS), stock(texts, LABELS))


def test_a_pair_that_is_more_than_its_parts_is_left_to_the_tokenizer(tmp_path, monkeypatch):
    tokenizer = write_tokenizer(tmp_path)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    # Segment ids that are no 0 … 0 1 … 1, as XLNet has them for what it puts around.
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:1 $A:0 [SEP]:1", pair="[CLS]:1 $A:0 [SEP]:1 $B:1 [SEP]:0",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    assert pair_layout(tokenizer, "the cat", "a dog") is None
    stock, ours = pipes("bert", tokenizer, max_tokens=128)
    left, by_tokenizer = [], PairEncoder._by_tokenizer
    monkeypatch.setattr(PairEncoder, "_by_tokenizer", lambda self, x: left.append(len(x)) or by_tokenizer(self, x))
    texts = [*sentences(6), *sentences(3, seed=1, longest=150)]
    assert_same(ours(texts, LABELS), stock(texts, LABELS))
    assert sum(left) == len(texts) * len(LABELS)


def test_every_kind_of_input_and_label_is_taken_as_the_stock_pipeline_does(tokenizer):
    stock, ours = pipes("bert", tokenizer)
    texts = sentences(5)
    expected = stock(texts, candidate_labels=LABELS)
    assert isinstance(ours(texts[0], LABELS), dict)
    assert_same([ours(texts[0], ", ".join(LABELS))], expected[:1])
    assert_same(ours(texts[:1], LABELS), expected[:1])
    assert_same(list(ours((text for text in texts), candidate_labels=LABELS, batch_size=4)), expected)
    assert_same(ours(np.array(texts).tolist(), LABELS, progress=True), expected)

    class Rows(Dataset):
        def __len__(self):
            return len(texts)

        def __getitem__(self, row):
            return texts[row]

    assert_same(list(ours(Rows(), candidate_labels=LABELS)), expected)
    assert_same(ours(texts, ["sun"]), stock(texts, ["sun"]))  # one label: on its own


def test_labels_may_differ_from_text_to_text(tokenizer):
    stock, ours = pipes("bert", tokenizer)
    texts, labels = sentences(3), [["sun", "rain"], "cat, dog, fish", ["food"]]
    expected = [stock(text, names) for text, names in zip(texts, labels, strict=True)]
    assert_same(ours(texts, labels), expected)
    assert_same(list(ours(iter(texts), iter(labels))), expected)
    with pytest.raises(ZeroShotError, match="one list of labels for each text"):
        ours(texts, labels[:2])


def test_several_templates_are_averaged_and_descriptions_stand_for_labels(tokenizer):
    _, ours = pipes("bert", tokenizer)
    text, templates = sentences(1)[0], ["the {} is", "a {}", "big {}"]
    logits = ours.scorer.logits([text], [template.format(word) for template in templates for word in ("sun", "cat")])
    evidence = logits[0, :, 2].reshape(3, 2).astype(np.float64).mean(0)
    expected = np.exp(evidence) / np.exp(evidence).sum()
    answer = ours(text, ["sun", "pet"], hypothesis_template=templates, label_texts={"pet": "cat"})
    assert [answer["scores"][answer["labels"].index(name)] for name in ("sun", "pet")] == pytest.approx(expected)


def test_the_same_pair_is_scored_once(tokenizer):
    _, ours = pipes("bert", tokenizer)
    seen = []
    forward = ours.scorer._forward
    ours.scorer._forward = lambda model, inputs: seen.append(len(inputs["input_ids"])) or forward(model, inputs)
    text = "the cat sleeps"
    answers = ours([text] * 7, LABELS)
    assert sum(seen) == len(LABELS)
    assert all(answer == answers[0] for answer in answers)


def test_a_stream_is_read_a_window_at_a_time(tokenizer, monkeypatch):
    monkeypatch.setattr("hf_fsl.zero_shot.pipelines.text.WINDOW_PAIRS", 30)
    _, ours = pipes("bert", tokenizer)
    taken = []
    answers = ours((taken.append(text) or text for text in sentences(100)), candidate_labels=LABELS)
    next(answers)
    assert len(taken) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a cat", []), "at least one candidate label"),
        (("a cat", ["sun", "sun"]), "must differ"),
        (("a cat",), "needs candidate_labels"),
        (("", LABELS), "not empty, got ''"),
        ((["a cat", "  "], LABELS), "not empty"),
        ((["a cat", None], LABELS), "not empty, got None"),
    ],
)
def test_bad_input_gets_a_clear_error(arguments, message, tokenizer):
    _, ours = pipes("bert", tokenizer)
    with pytest.raises(ZeroShotError, match=message):
        ours(*arguments)


def test_bad_options_get_a_clear_error(tokenizer):
    _, ours = pipes("bert", tokenizer)
    with pytest.raises(ZeroShotError, match="one place"):
        ours("a cat", LABELS, hypothesis_template="no place")
    with pytest.raises(TypeError, match="label_descriptions is now called label_texts"):
        ours("text", candidate_labels=["a"], label_descriptions={"a": "b"})
    with pytest.raises(TypeError, match="no option tempalte"):
        ours("a cat", LABELS, tempalte="{}")
    with pytest.raises(ZeroShotError, match="room for the text"):
        ours("a cat", [" ".join(WORDS * 3)])


def test_a_model_without_an_entailment_class_is_refused_unless_it_is_named(tokenizer):
    model = nli_model("bert", num_labels=3).eval()
    given = {"model": model, "tokenizer": tokenizer, "pipeline_class": ZeroShotTextPipeline, "device": "cpu"}
    with pytest.raises(ZeroShotError, match=r"names LABEL_0, LABEL_1, LABEL_2.*entailment_id"):
        pipeline("zero-shot-classification", **given)
    with pytest.raises(ZeroShotError, match="from 0 to 2"):
        pipeline("zero-shot-classification", **given, entailment_id=3)
    named = pipeline("zero-shot-classification", **given, entailment_id=2)
    assert named("a cat", LABELS)["labels"]
    with pytest.raises(ZeroShotError, match="contradiction_id"):
        named("a cat", LABELS, multi_label=True)
    both = pipeline("zero-shot-classification", **given, entailment_id=2, contradiction_id=0)
    same = pipeline("zero-shot-classification", **given | {"model": _renamed(model)})
    assert both("a cat", LABELS, multi_label=True) == same("a cat", LABELS, multi_label=True)


def _renamed(model):
    model.config.id2label, model.config.label2id = NLI["id2label"], NLI["label2id"]
    return model


def test_batches_stay_below_the_budget_and_hold_little_padding(tokenizer):
    _, ours = pipes("bert", tokenizer, max_tokens=200)
    sizes = []
    forward = ours.scorer._forward
    ours.scorer._forward = lambda model, inputs: sizes.append(inputs["input_ids"].numel()) or forward(model, inputs)
    labels = [" ".join(pair) for pair in itertools.combinations(WORDS[:12], 2)]
    ours(sentences(20), labels)
    assert max(sizes) <= 200
    assert 0 < ours.scorer.padding_share < 0.05


def test_the_share_of_padding_is_that_of_the_whole_call(tokenizer, monkeypatch):
    monkeypatch.setattr("hf_fsl.zero_shot.pipelines.text.WINDOW_PAIRS", 4)
    _, ours = pipes("bert", tokenizer)
    texts = ["the cat", "the cat sleeps and the dog runs", "food", "rain"]
    for _ in range(2):
        ours(texts, ["sun", "rain"], hypothesis_template="{}")
        # Of the first window one pair in two lacks 5 of 11 tokens; of the second none does.
        assert ours.scorer.padding_share == pytest.approx(2 * 5 / (4 * 11 + 4 * 5))
