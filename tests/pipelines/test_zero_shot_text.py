from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
import transformers as t
from conftest import WORDS, text_sizes, write_tokenizer
from tokenizers import processors
from torch.nn.functional import normalize
from torch.utils.data import Dataset
from transformers import pipeline

from hf_fsl.pipelines import ZeroShotTextPipeline
from hf_fsl.zero_shot import ZeroShotError, onnx_runtime
from hf_fsl.zero_shot.onnx_runtime import OnnxClassifier
from hf_fsl.zero_shot.pairs import PairEncoder, pair_layout

LABELS = ["food", "big red house", "sun"]
NLI = {"id2label": {0: "contradiction", 1: "neutral", 2: "entailment"}}
NLI |= {"label2id": {name: index for index, name in NLI["id2label"].items()}}


def nli_model(kind: str, **names):
    torch.manual_seed(0)
    names = names or NLI
    if kind == "bert":
        return t.BertForSequenceClassification(t.BertConfig(**text_sizes(), **names))
    if kind == "roberta":
        sizes = text_sizes() | {"max_position_embeddings": 80}
        return t.RobertaForSequenceClassification(t.RobertaConfig(**sizes, **names, pad_token_id=0))
    if kind == "deberta-v2":
        return t.DebertaV2ForSequenceClassification(
            t.DebertaV2Config(**text_sizes(), **names, relative_attention=True, pos_att_type=["c2p", "p2c"])
        )
    assert kind == "bart"
    config = t.BartConfig(
        vocab_size=len(WORDS) + 10, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=80, **names,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, forced_eos_token_id=3,
    )  # fmt: skip
    return t.BartForSequenceClassification(config)


def sentences(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def pipes(kind, tokenizer, **options):
    model = nli_model(kind).eval()
    with torch.no_grad():  # sharp answers: a wrong one would show
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    given = {"model": model, "tokenizer": tokenizer, "device": "cpu"}
    return (
        pipeline("zero-shot-classification", **given),
        pipeline("zero-shot-classification", pipeline_class=ZeroShotTextPipeline, **given, **options),
    )


def assert_same(ours, stock):
    assert len(ours) == len(stock)
    for own, other in zip(ours, stock, strict=True):
        assert own["sequence"] == other["sequence"]
        assert dict(zip(own["labels"], own["scores"], strict=True)) == pytest.approx(
            dict(zip(other["labels"], other["scores"], strict=True)), abs=1e-5
        )
        assert own["scores"] == pytest.approx(other["scores"], abs=1e-5)


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


def roberta_tokenizer(folder):
    """<s> text </s></s> hypothesis </s>, no segment ids."""
    tokenizer = write_tokenizer(folder)
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


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
    answer = ours(text, ["sun", "pet"], hypothesis_template=templates, label_descriptions={"pet": "cat"})
    assert [answer["scores"][answer["labels"].index(name)] for name in ("sun", "pet")] == pytest.approx(expected)


@pytest.mark.parametrize("multi_label", [False, True])
def test_calibration_takes_the_label_prior_out(multi_label, tokenizer):
    _, ours = pipes("bert", tokenizer)
    texts = sentences(20)
    before = ours(texts, LABELS, multi_label=multi_label)
    scores = np.array([[row["scores"][row["labels"].index(name)] for name in LABELS] for row in before])
    prior = ours.fit_calibration((text for text in texts), LABELS, multi_label=multi_label)
    mean = scores.mean(0)
    if multi_label:
        odds = scores / (1 - scores) / (mean / (1 - mean))
        expected = odds / (1 + odds)
    else:
        expected = scores / mean / (scores / mean).sum(1, keepdims=True)
    for answer, row in zip(ours(texts, LABELS, multi_label=multi_label), expected, strict=True):
        got = [answer["scores"][answer["labels"].index(name)] for name in LABELS]
        assert got == pytest.approx(row, rel=1e-4)
    assert ours(texts, LABELS, multi_label=multi_label, calibrated=False) == before
    assert prior.texts == 20
    assert ours(texts[0], LABELS[:2]) == ours(texts[0], LABELS[:2], calibrated=False)  # another question


def test_a_prior_survives_saving(tokenizer, tmp_path):
    from hf_fsl.zero_shot import LabelPrior

    _, ours = pipes("bert", tokenizer)
    prior = ours.fit_calibration(sentences(4), LABELS, label_descriptions={"sun": "the sun"})
    assert LabelPrior.load(prior.save(tmp_path / "prior.json")) == prior


def test_a_learned_shortlist_names_what_the_cross_encoder_would_choose(tokenizer, text_backbone):
    from hf_fsl.backbones import Backbone

    backbone = Backbone.from_pretrained(str(text_backbone))
    _, ours = pipes("bert", tokenizer, shortlist_model=backbone, similarity_weight=0.0)
    labels, texts = ["food", "house", "sun", "cat", "red", "river"], sentences(40)
    whole = ours(texts, labels)

    def found() -> float:
        few = ours(texts, labels, shortlist=1)
        return np.mean([a["labels"][0] == b["labels"][0] for a, b in zip(few, whole, strict=True)])

    untaught = found()
    learned = ours.fit_shortlist(iter(texts), labels)
    assert learned.weights.shape == (backbone.encode(texts[:1]).shape[1], len(labels))
    assert found() > untaught + 0.1
    assert ours.fit_shortlist(texts, labels, shortlist=2).scale == learned.scale  # all labels are scored in any case
    with pytest.raises(ZeroShotError, match="got no text"):
        ours.fit_shortlist([], labels)
    with pytest.raises(ZeroShotError, match="two texts or more, got 1"):
        ours.fit_shortlist(texts[:1], labels)


def text_near(backbone, texts, labels):
    """Cosines (N, C)."""
    filled = [f"This example is {name}." for name in labels]
    return (normalize(backbone.encode(texts), dim=-1) @ normalize(backbone.encode(filled), dim=-1).T).numpy()


def test_the_shortlister_is_a_ridge_regression_of_what_the_cosines_leave():
    from sklearn.linear_model import Ridge

    from hf_fsl.zero_shot.shortlist import Shortlister

    generator = torch.Generator().manual_seed(0)
    embeddings, cosines, evidence = (torch.randn(30, size, generator=generator) for size in (5, 4, 4))
    learned = Shortlister.fit(embeddings, cosines, evidence, penalty=0.7)
    centred = evidence - evidence.mean(1, keepdim=True)
    left = centred - learned.scale * cosines
    reference = Ridge(alpha=0.7).fit(embeddings, left).predict(embeddings) + learned.scale * cosines.numpy()
    assert np.allclose(learned(embeddings, cosines), reference, atol=1e-4)
    slope = np.polyfit((cosines - cosines.mean(0)).ravel(), (centred - centred.mean(0)).ravel(), 1)[0]
    assert learned.scale == pytest.approx(slope, rel=1e-4)


def test_the_bi_encoder_has_a_say_among_the_labels_of_a_shortlist(tokenizer, text_backbone):
    from hf_fsl.backbones import Backbone

    backbone = Backbone.from_pretrained(str(text_backbone))
    labels, texts = ["food", "house", "sun"], sentences(3)
    near = text_near(backbone, texts, labels)
    _, alone = pipes("bert", tokenizer, shortlist_model=backbone, similarity_weight=0.0)
    _, both = pipes("bert", tokenizer, shortlist_model=backbone, similarity_weight=2.0)
    difference = both.evidence(texts, labels, shortlist=2) - alone.evidence(texts, labels, shortlist=2)
    kept = np.isfinite(difference)
    assert kept.sum() == 6 and np.allclose(difference[kept], 2 * near[kept], atol=1e-5)
    for options in ({}, {"shortlist": 2, "multi_label": True}):
        ours, other = (pipe.evidence(texts, labels, **options) for pipe in (alone, both))
        assert np.array_equal(ours, other, equal_nan=True)


def test_a_shortlist_scores_only_the_likeliest_labels(tokenizer, text_backbone):
    from hf_fsl.backbones import Backbone

    backbone = Backbone.from_pretrained(str(text_backbone))
    _, ours = pipes("bert", tokenizer, shortlist_model=backbone, similarity_weight=0.0)
    labels, texts = ["food", "house", "sun", "cat", "red", "river"], sentences(8)
    whole = ours(texts, labels)
    assert ours(texts, labels, shortlist=6) == whole
    near = backbone.encode(texts) @ torch.nn.functional.normalize(
        backbone.encode([ours.default_template.format(name) for name in labels]), dim=-1
    ).T  # fmt: skip
    seen = []
    logits = ours.scorer.logits
    ours.scorer.logits = lambda *given, **options: seen.append(len(given[2])) or logits(*given, **options)
    for answer, full, row in zip(ours(texts, labels, shortlist=2), whole, near, strict=True):
        kept = {labels[index] for index in row.topk(2).indices}
        assert set(answer["labels"][:2]) == kept
        assert answer["labels"][2:] == [labels[i] for i in row.argsort(descending=True) if labels[i] not in kept]
        assert answer["scores"][2:] == [0.0] * 4
        share = dict(zip(full["labels"], full["scores"], strict=True))
        first, second = answer["labels"][:2]
        assert answer["scores"][0] == pytest.approx(share[first] / (share[first] + share[second]), abs=1e-5)
    assert seen == [16]


def test_the_same_pair_is_scored_once(tokenizer):
    _, ours = pipes("bert", tokenizer)
    seen = []
    forward = ours.scorer._forward
    ours.scorer._forward = lambda inputs: seen.append(len(inputs["input_ids"])) or forward(inputs)
    text = "the cat sleeps"
    answers = ours([text] * 7, LABELS)
    assert sum(seen) == len(LABELS)
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize(("runtime", "allowed"), [("onnx", 1e-5), ("int8", 0.1)])
def test_onnx_runtime_gives_the_scores(runtime, allowed, kind, tokenizer, tmp_path):
    stock, ours = pipes(kind, tokenizer if kind == "bert" else roberta_tokenizer(tmp_path), runtime=runtime)
    texts = sentences(10)
    got, expected = (
        np.array([[dict(zip(row["labels"], row["scores"], strict=True))[name] for name in LABELS] for row in answers])
        for answers in (ours(texts, LABELS), stock(texts, LABELS))
    )
    assert np.abs(got - expected).max() < allowed
    if runtime == "int8":
        assert np.abs(got - expected).max() > 1e-6


def test_tokens_are_quantised_in_a_range_of_their_own(monkeypatch):
    """One scale for the whole batch would leave most tokens a few of its 256 steps."""
    model, inputs = nli_model("bert"), torch.randn(2, 3, 32)
    inputs[0, 0], inputs[0, 1] = 0, 1000 * inputs[0, 1]  # padding, and a token of far larger values
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module.in_features == 32]
    seen = []
    product = onnx_runtime.linear
    monkeypatch.setattr(onnx_runtime, "linear", lambda *given: seen.append(given[0]) or product(*given))
    expected = [layer(inputs) for layer in layers]
    with onnx_runtime._tokens_of_one_range(model):
        torch.testing.assert_close([layer(inputs) for layer in layers], expected, rtol=1e-4, atol=1e-5)
    largest = torch.ones(2, 3)
    largest[0, 0] = 0
    assert len(layers) == len(seen) > 8
    for given in seen:
        torch.testing.assert_close(given.abs().amax(-1), largest)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_that_cannot_be_exported_is_refused(tokenizer, monkeypatch):
    with pytest.raises(ZeroShotError, match="takes float32 models on a CPU here; got torch.bfloat16 on cpu"):
        OnnxClassifier(nli_model("bert").bfloat16(), ["input_ids"], "float32")

    def fails(*_, **__):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("torch.onnx.export", fails)
    with pytest.raises(ZeroShotError, match="cannot be exported.* no such operator.*Use runtime='torch'"):
        pipes("bert", tokenizer, runtime="onnx")


def test_a_stream_is_read_a_window_at_a_time(tokenizer, monkeypatch):
    monkeypatch.setattr("hf_fsl.pipelines.zero_shot_text.WINDOW_PAIRS", 30)
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
    ours.scorer._forward = lambda inputs: sizes.append(inputs["input_ids"].numel()) or forward(inputs)
    labels = [" ".join(pair) for pair in itertools.combinations(WORDS[:12], 2)]
    ours(sentences(20), labels)
    assert max(sizes) <= 200
    assert 0 < ours.scorer.padding_share < 0.05


def test_the_share_of_padding_is_that_of_the_whole_call(tokenizer, monkeypatch):
    monkeypatch.setattr("hf_fsl.pipelines.zero_shot_text.WINDOW_PAIRS", 4)
    _, ours = pipes("bert", tokenizer)
    texts = ["the cat", "the cat sleeps and the dog runs", "food", "rain"]
    for _ in range(2):
        ours(texts, ["sun", "rain"], hypothesis_template="{}")
        # Of the first window one pair in two lacks 5 of 11 tokens; of the second none does.
        assert ours.scorer.padding_share == pytest.approx(2 * 5 / (4 * 11 + 4 * 5))
