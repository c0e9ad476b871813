from __future__ import annotations

import numpy as np
import pytest
from torch.nn.functional import normalize
from transformers import pipeline

from hf_fsl.backbones import Backbone
from hf_fsl.pipelines import ZeroShotEmbeddingPipeline
from hf_fsl.zero_shot import ZeroShotError

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
    answers = pipe(TEXTS, LABELS, hypothesis_template=templates, label_descriptions={"cat": "the cat"})
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
