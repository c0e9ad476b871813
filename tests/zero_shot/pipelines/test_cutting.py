"""``truncation``, ``max_length``, ``padding``, ``tokenizer_kwargs``, ``multi_class``: taken as stock pipelines do."""

from __future__ import annotations

import pytest
from transformers import pipeline

import hf_fsl.auto  # noqa: F401
from hf_fsl import ZeroShotEmbeddingPipeline, ZeroShotImagePipeline
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.zero_shot import ZeroShotError
from tests.helpers.encoders import save_encoder
from tests.helpers.image_text import image_text_model, images, processors
from tests.helpers.nli import LABELS, assert_same, pipes

LONG = " ".join(["the cat sleeps and the dog runs"] * 4)
SUPPORT = {"weather": ["the rain", "the sun is red"], "animals": ["a cat sleeps", "the dog runs"]}
COMPATIBLE = {"truncation": True, "padding": True}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_encoder("bert", tmp_path_factory.mktemp("encoder")))


@pytest.fixture
def by_embeddings(encoder):
    return pipeline("feature-extraction", model=encoder, pipeline_class=ZeroShotEmbeddingPipeline, device="cpu")


@pytest.fixture
def few_shot(encoder):
    return pipeline("few-shot-classification", model=encoder, device="cpu")


def test_what_the_stock_pipeline_takes_is_taken(tokenizer):
    stock, ours = pipes("bert", tokenizer)
    texts = [LONG, "the sun"]
    assert_same(ours(texts, LABELS, **COMPATIBLE), stock(texts, LABELS, **COMPATIBLE))
    _, constructed = pipes("bert", tokenizer, **COMPATIBLE, tokenizer_kwargs={"max_length": 12})
    assert constructed(texts, LABELS) == ours(texts, LABELS, max_length=12)


def test_a_pair_is_cut_where_it_is_asked_and_never_its_hypothesis(tokenizer):
    _, ours = pipes("bert", tokenizer)
    template = "the {}"
    # [CLS] text [SEP] the big red house [SEP]: seven tokens beside the text, at most.
    cut = ours(LONG, LABELS, hypothesis_template=template, max_length=10)
    first = ours(" ".join(LONG.split()[:3]), ["big red house"], hypothesis_template=template)
    assert dict(zip(cut["labels"], cut["scores"], strict=True)) != first
    one = ours(LONG, ["big red house"], hypothesis_template=template, tokenizer_kwargs={"max_length": 10})
    assert one["scores"] == pytest.approx(first["scores"], abs=1e-6)
    assert ours(LONG, LABELS, max_length=10_000) == ours(LONG, LABELS)
    with pytest.raises(ZeroShotError, match="must leave room for the text"):
        ours(LONG, LABELS, hypothesis_template=template, max_length=7)
    with pytest.raises(ZeroShotError, match=r"truncation=False: 1 of 2 texts have more than the 3 tokens"):
        ours([LONG, "the sun"], LABELS, hypothesis_template=template, max_length=10, truncation=False)
    assert ours("the sun", LABELS, truncation=False) == ours("the sun", LABELS)


def test_the_old_name_of_multi_label_is_heeded(tokenizer):
    _, ours = pipes("bert", tokenizer)
    with pytest.warns(FutureWarning, match="now called multi_label"):
        old = ours("the sun", LABELS, multi_class=True)
    assert old == ours("the sun", LABELS, multi_label=True) != ours("the sun", LABELS)
    with pytest.raises(ZeroShotError, match="they differ"):
        ours("the sun", LABELS, multi_class=True, multi_label=False)


@pytest.mark.parametrize("option", [{"max_length": 5}, {"tokenizer_kwargs": {"max_length": 5, "truncation": True}}])
def test_encoders_cut_texts_there(by_embeddings, few_shot, option):
    first = " ".join(LONG.split()[:3])
    cut, whole = by_embeddings(LONG, LABELS, **option), by_embeddings(LONG, LABELS)
    assert cut["scores"] == pytest.approx(by_embeddings(first, LABELS)["scores"], abs=1e-6)
    assert cut["scores"] != pytest.approx(whole["scores"], abs=1e-6)
    assert by_embeddings(LONG, LABELS, **COMPATIBLE) == whole  # the limit of one call is not that of the next
    supports = {label: [f"{example} {LONG}" for example in examples] for label, examples in SUPPORT.items()}
    shorter = {label: [" ".join(one.split()[:3]) for one in examples] for label, examples in supports.items()}
    answer = few_shot(LONG, support=supports, **option)
    assert [one["score"] for one in answer] == pytest.approx(
        [one["score"] for one in few_shot(first, support=shorter)], abs=1e-6
    )
    assert answer != few_shot(LONG, support=supports, **COMPATIBLE)


def test_what_must_not_be_cut_is_told(by_embeddings, few_shot):
    with pytest.raises(ZeroShotError, match=r"truncation=False: 1 of 1 texts have more than 5 tokens"):
        by_embeddings(LONG, LABELS, max_length=5, truncation=False)
    with pytest.raises(FewShotError, match=r"truncation=False: 1 of 1 texts have more than 7 tokens"):
        few_shot(LONG, support=SUPPORT, tokenizer_kwargs={"max_length": 7, "truncation": "do_not_truncate"})
    with pytest.raises(ZeroShotError, match="adds 2 tokens of its own; got 2"):
        by_embeddings(LONG, LABELS, max_length=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": "only_second"}, "truncation is one of"),
        ({"truncation": [1]}, "truncation is one of"),
        ({"padding": "left"}, "padding is one of"),
        ({"max_length": 0}, "max_length: a whole number"),
        ({"max_length": True}, "max_length: a whole number"),
        ({"tokenizer_kwargs": {"stride": 3}}, "tokenizer_kwargs: a mapping of truncation, max_length, padding"),
        ({"tokenizer_kwargs": 3}, "tokenizer_kwargs: a mapping"),
    ],
)
def test_values_that_a_tokenizer_does_not_take_are_told(by_embeddings, few_shot, options, message):
    with pytest.raises(ZeroShotError, match=message):
        by_embeddings(LONG, LABELS, **options)
    with pytest.raises(FewShotError, match=message):
        few_shot(LONG, support=SUPPORT, **options)


def test_labels_of_pictures_are_cut_there(tmp_path):
    parts = {"model": image_text_model("clip"), **processors("clip", tmp_path), "device": "cpu"}
    ours = pipeline("zero-shot-image-classification", pipeline_class=ZeroShotImagePipeline, **parts)
    labels = ["cat", "big red house"]
    kwargs = {"truncation": True, "max_length": 3}
    assert ours(images(1), labels, **kwargs) == ours(images(1), labels, tokenizer_kwargs=kwargs)
    assert ours(images(1), labels, **kwargs) != ours(images(1), labels)
