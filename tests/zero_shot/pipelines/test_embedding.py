from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from transformers import pipeline

from hf_fsl import ZeroShotEmbeddingPipeline
from hf_fsl.models.backbones import Backbone
from hf_fsl.zero_shot import ZeroShotError
from hf_fsl.zero_shot.bi_encoder import LabelEncoder
from hf_fsl.zero_shot.label_sets import LabelSet

TEXTS = ["the cat sleeps", "rain and sun", "a very big red house", "good food"]
LABELS = ["cat", "sun", "house"]


@pytest.fixture(scope="module")
def pipe(text_backbone):
    return pipeline(
        "feature-extraction", model=str(text_backbone), pipeline_class=ZeroShotEmbeddingPipeline, device="cpu",
        temperature=0.1,
    )  # fmt: skip


def scores(answers, labels=LABELS):
    return np.array([[row["scores"][row["labels"].index(name)] for name in labels] for row in answers])


def embed(backbone, texts):
    return normalize(backbone.encode(texts), dim=-1).double().numpy()


def test_scores_are_a_softmax_of_cosines_with_the_mean_over_the_templates(pipe, text_backbone):
    backbone = Backbone.from_pretrained(str(text_backbone))
    templates = ["the {}", "{} is a train"]
    words = ["the cat", "sun", "house"]
    means = sum(embed(backbone, [template.format(word) for word in words]) for template in templates) / 2
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    expected = np.exp(embed(backbone, TEXTS) @ means.T / 0.1)
    expected /= expected.sum(1, keepdims=True)
    answers = pipe(TEXTS, LABELS, hypothesis_template=templates, label_texts={"cat": "the cat"})
    assert scores(answers) == pytest.approx(expected, abs=1e-5)
    assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in answers)


def test_labels_on_their_own_are_compared_with_no_label_in_particular(pipe, text_backbone):
    backbone = Backbone.from_pretrained(str(text_backbone))
    texts = embed(backbone, TEXTS)
    gain = texts @ (embed(backbone, LABELS) - embed(backbone, ["something"])).T / 0.1
    assert scores(pipe(TEXTS, LABELS, multi_label=True)) == pytest.approx(1 / (1 + np.exp(-gain)), abs=1e-5)


def test_labels_are_encoded_once_for_all_calls(text_backbone):
    backbone = Backbone.from_pretrained(str(text_backbone))
    pipe = ZeroShotEmbeddingPipeline(backbone=backbone, device="cpu")
    seen = []
    encode = backbone.encode
    backbone.encode = lambda inputs, **options: seen.extend(inputs) or encode(inputs, **options)
    first = [pipe(text, LABELS) for text in TEXTS]
    assert seen.count("cat") == 1
    assert sorted(seen) == sorted([*TEXTS, *LABELS])
    assert [row["labels"] for row in pipe(TEXTS, LABELS)] == [row["labels"] for row in first]


@pytest.mark.parametrize("change", ["in place", "data"])
def test_other_weights_give_other_label_embeddings(change, text_backbone):
    backbone = Backbone.from_pretrained(str(text_backbone))
    pipe = ZeroShotEmbeddingPipeline(backbone=backbone, device="cpu")
    before = pipe(TEXTS, LABELS)
    weight = backbone.model.encoder.layer[-1].output.dense.weight
    with torch.no_grad():
        (weight.data if change == "data" else weight).mul_(-3)
    after = pipe(TEXTS, LABELS)
    assert after == ZeroShotEmbeddingPipeline(backbone=backbone, device="cpu")(TEXTS, LABELS) != before


@pytest.fixture
def counted(text_backbone):
    """A pipeline, and the texts that go through its encoder, each call of it a list."""
    backbone = Backbone.from_pretrained(str(text_backbone))
    calls, encode = [], backbone.encode
    backbone.encode = lambda inputs, **options: calls.append(list(inputs)) or encode(inputs, **options)
    return ZeroShotEmbeddingPipeline(backbone=backbone, device="cpu"), calls


@pytest.mark.parametrize(("labels", "options"), [(LABELS, {"multi_label": True}), (["cat"], {})])
def test_labels_on_their_own_cost_one_forward_a_text_too(labels, options, counted):
    pipe, calls = counted
    pipe(TEXTS, labels, **options)
    assert sorted(itertools.chain(*calls)) == sorted([*TEXTS, *labels, "something"])


def test_label_sets_of_each_text_share_what_they_have_in_common(counted):
    pipe, calls = counted
    sets = [["cat", "sun"], ["sun", "house"], ["house", "cat", "food"], ["cat", "sun"]]
    answers = pipe(TEXTS, sets)
    assert [len(call) for call in calls] == [4, 4]  # the texts, and all labels of the window
    assert sorted(itertools.chain(*calls)) == sorted([*TEXTS, "cat", "sun", "house", "food"])
    for text, labels, answer in zip(TEXTS, sets, answers, strict=True):
        assert answer["scores"] == pytest.approx(pipe(text, labels)["scores"], abs=1e-6)
        assert answer["labels"] == pipe(text, labels)["labels"]


def test_label_embeddings_that_a_caller_changes_are_not_what_is_kept(text_backbone):
    encoder = LabelEncoder(Backbone.from_pretrained(str(text_backbone)))
    label_set = LabelSet(("cat", "sun"), ("the {}",))
    encoder.label_embeddings(label_set).zero_()
    assert encoder.label_embeddings(label_set).norm(dim=1) == pytest.approx(1)


def test_pooling_is_what_the_repository_says():
    from hf_fsl.hub.seed import minilm_folder

    pipe = pipeline(
        "feature-extraction", model=str(minilm_folder()), pipeline_class=ZeroShotEmbeddingPipeline, device="cpu"
    )
    answer = pipe("The cat chased the dog through the garden.", ["animal", "food", "feeling"])
    assert answer["labels"][0] == "animal"
    backbone = Backbone.from_pretrained(str(minilm_folder()))
    cosines = embed(backbone, ["The cat chased the dog through the garden."]) @ embed(backbone, ["animal", "food"]).T
    ratio = answer["scores"][0] / answer["scores"][answer["labels"].index("food")]
    assert np.log(ratio) * 0.05 == pytest.approx(cosines[0, 0] - cosines[0, 1], abs=1e-5)


def test_bad_input_gets_a_clear_error(pipe, text_backbone):
    with pytest.raises(ZeroShotError, match="shortlist is for the NLI pipeline"):
        pipe("a cat", LABELS, shortlist=2)
    with pytest.raises(ZeroShotError, match="temperature: above 0"):
        ZeroShotEmbeddingPipeline(backbone=Backbone.from_pretrained(str(text_backbone)), temperature=0.0)
    with pytest.raises(ZeroShotError, match="not empty"):
        pipe(["a cat", ""], LABELS)
    for labels, options, rule in (
        ([], {}, "at least one candidate label"),
        (["cat", "sun", "cat"], {}, "more than once: cat"),
        (LABELS, {"hypothesis_template": "no place"}, "one place"),
    ):
        with pytest.raises(ZeroShotError, match=rule):
            pipe("a cat", labels, **options)
