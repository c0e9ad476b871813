"""The few-shot pipeline: support sets at call time, for texts and images, on any encoder."""

from __future__ import annotations

import itertools

import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import hf_fsl.auto  # noqa: F401
from hf_fsl.few_shot import pipeline as pipeline_module
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.few_shot.heads import HeadError, choose_head
from hf_fsl.few_shot.pipeline import FewShotPipeline
from hf_fsl.models.backbones import Backbone, BackboneError
from hf_fsl.models.export import export_model
from hf_fsl.zero_shot import ZeroShotError
from tests.helpers.encoders import pictures, save_encoder, texts
from tests.helpers.image_text import image_text_model, processors
from tests.helpers.publishing import NAMES, publish, random_head
from tests.helpers.tiny_models import build_model

TASK = "few-shot-classification"
SUPPORT = {"weather": ["the rain", "the sun is red"], "animals": ["a cat sleeps", "the dog runs", "a big bird"]}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return str(save_encoder("bert", tmp_path_factory.mktemp("encoder")))


@pytest.fixture
def pipe(repository):
    return pipeline(TASK, model=repository, device="cpu")


def count_encoded(backbone, monkeypatch):
    """A list that gets the inputs of every ``encode``."""
    calls, original = [], backbone.encode

    def counted(inputs, **options):
        calls.append(list(inputs))
        return original(inputs, **options)

    monkeypatch.setattr(backbone, "encode", counted)
    return calls


def test_answers_are_the_softmax_of_the_head_that_is_chosen(pipe, repository):
    queries = texts(9)
    answers = pipe(queries, support=SUPPORT)
    backbone = Backbone.from_pretrained(repository)
    embeddings = backbone.encode([*SUPPORT["weather"], *SUPPORT["animals"]])
    names = torch.nn.functional.normalize(backbone.encode(list(SUPPORT)), dim=-1)
    choice = choose_head(embeddings, torch.tensor([0, 0, 1, 1, 1]), num_classes=2, label_embeddings=names)
    expected = choice.head(backbone.encode(queries)).softmax(-1)
    for answer, row in zip(answers, expected, strict=True):
        found = {one["label"]: one["score"] for one in answer}
        assert found == pytest.approx(dict(zip(SUPPORT, row.tolist(), strict=True)), abs=1e-5)
        assert [one["score"] for one in answer] == sorted(found.values(), reverse=True)
    assert pipe.fit(SUPPORT).reason == choice.reason
    assert scores(pipe(queries[0], support=SUPPORT)) == pytest.approx(scores(answers[0]), abs=1e-5)
    assert pipe(queries, support=SUPPORT, top_k=1) == [answer[:1] for answer in answers]


def test_a_support_set_is_encoded_once(pipe, monkeypatch):
    calls = count_encoded(pipe.backbone, monkeypatch)
    pipe("a train", support=SUPPORT)
    assert calls == [[*SUPPORT["weather"], *SUPPORT["animals"]], ["weather", "animals"], ["a train"]]
    calls.clear()
    pipe("a car", support={label: list(examples) for label, examples in SUPPORT.items()})
    assert calls == [["a car"]]
    other = {**SUPPORT, "weather": ["the rain", "a river"]}
    assert pipe("a car", support=other) != pipe("a car", support=SUPPORT)
    with torch.no_grad():
        next(pipe.model.parameters()).add_(0.5)
    calls.clear()
    pipe("a car", support=SUPPORT)
    assert len(calls) == 3


def test_label_names_are_heard_unless_they_are_not_to_be(pipe):
    one_shot = {"cat": ["a cat sleeps"], "train": ["the red train"]}
    named, alone = pipe("very big", support=one_shot), pipe("very big", support=one_shot, use_label_texts=False)
    renamed = {"first": one_shot["cat"], "second": one_shot["train"]}
    assert scores(pipe("very big", support=renamed, use_label_texts=False)) == scores(alone)
    assert scores(named) != scores(alone)
    described = {"label_texts": {"first": "cat", "second": "train"}}
    assert scores(pipe("very big", support=renamed, **described)) == scores(named)
    assert scores(pipe("very big", support=one_shot, hypothesis_template="a big {}")) != scores(named)
    with pytest.raises(ZeroShotError, match="Texts for first, second, but the candidate labels are cat, train"):
        pipe("very big", support=one_shot, **described)


def scores(answer):
    return [one["score"] for one in answer]


@pytest.mark.parametrize("head", ["nearest_mean", "lda"])
@pytest.mark.parametrize("shots", [1, 2])
def test_an_estimator_can_be_named(head, shots, pipe):
    support = {label: examples[:shots] for label, examples in SUPPORT.items()}
    answer = pipe("a train", support=support, head=head)
    assert sum(one["score"] for one in answer) == pytest.approx(1)
    with pytest.raises(HeadError):
        pipe("a train", support=support, head="perceptron")


def test_generators_and_data_sets_are_streamed(pipe, monkeypatch):
    monkeypatch.setitem(pipeline_module.WINDOW, "text", 4)
    queries, read = texts(11), []
    expected = pipe(queries, support=SUPPORT)

    def generated():
        for query in queries:
            read.append(query)
            yield query

    answers = pipe(generated(), support=SUPPORT)
    assert scores(next(answers)) == pytest.approx(scores(expected[0]), abs=1e-5)
    assert len(read) == 4
    for answer, wanted in zip(answers, expected[1:], strict=True):
        assert scores(answer) == pytest.approx(scores(wanted), abs=1e-5)
    rows = KeyDataset([{"text": query} for query in queries], "text")
    streamed = pipe(rows, support=SUPPORT)
    assert len(streamed) == 11 and [one[0]["label"] for one in streamed] == [one[0]["label"] for one in expected]
    endless = pipe(itertools.cycle(queries), support=SUPPORT)
    assert [next(endless)[0]["label"] for _ in range(11)] == [one[0]["label"] for one in expected]


def test_options_of_the_pipeline_hold_until_a_call_says_otherwise(repository):
    pipe = pipeline(TASK, model=repository, support=SUPPORT, top_k=1, device="cpu")
    assert len(pipe("a train")) == 1 and len(pipe("a train", top_k=None)) == 2
    assert {one["label"] for one in pipe("a train", support={"x": ["a cat"], "y": ["a dog"]}, top_k=2)} == {"x", "y"}


@pytest.mark.parametrize(
    ("support", "why"),
    [
        (None, "and got none"),
        ([("a", ["b"])], "and got a list"),
        ({}, "at least two labels, got none"),
        ({"one": ["a cat"]}, r"at least two labels, got \['one'\]"),
        ({"one": ["a cat"], "two": []}, "without any: two"),
        ({"one": ["a cat"], "two": 5}, r"support\['two'\]: .*got int. Give a list"),
        ({"one": ["a cat", "a dog"], "two": ["a dog"]}, "for 'one' and for 'two'"),
        ({"one": ["a cat"], "two": [""]}, "empty text"),
        ({"one": ["a cat"], "two": [Image.new("RGB", (8, 8))]}, "not mixed"),
        ({"one": [Image.new("RGB", (8, 8))], "two": [Image.new("RGB", (9, 9))]}, "encodes texts, not images"),
    ],
)
def test_support_sets_that_cannot_be_used(support, why, pipe):
    with pytest.raises((FewShotError, BackboneError), match=why):
        pipe("a train", support=support)


def test_a_query_among_the_supports_is_refused(pipe):
    with pytest.raises(FewShotError, match="1 of the queries are among the supports, such as 'the rain'"):
        pipe(["a train", "the rain"], support=SUPPORT)
    assert len(pipe(["a train", "the rain"], support=SUPPORT, on_overlap="ignore")) == 2


def test_what_cannot_be_asked_is_said(pipe):
    with pytest.raises(BackboneError, match="encodes texts, not images"):
        pipe(pictures(1)[0], support=SUPPORT)
    with pytest.raises(FewShotError, match="top_k: at least 1"):
        pipe("a train", support=SUPPORT, top_k=0)
    with pytest.raises(FewShotError, match="use_label_texts: 'auto' or False"):
        pipe("a train", support=SUPPORT, use_label_texts="always")
    with pytest.raises(TypeError, match="label_descriptions is now called label_texts; prior is now called use_label"):
        pipe("a train", support=SUPPORT, prior=None, label_descriptions={})
    with pytest.raises(FewShotError, match="on_overlap"):
        pipe("a train", support=SUPPORT, on_overlap="drop")
    with pytest.raises(TypeError, match="no option candidate_labels"):
        pipe("a train", support=SUPPORT, candidate_labels=["a"])


def coloured(count, channel, seed):
    """Noise of one colour."""
    return [
        Image.merge(
            "RGB", [band if row == channel else Image.new("L", one.size) for row, band in enumerate(one.split())]
        )
        for one in pictures(count + seed)[seed:]
    ]


@pytest.fixture(scope="module")
def image_repository(tmp_path_factory):
    """What a ViT classifier's repository holds: no pooler's weights."""
    folder = tmp_path_factory.mktemp("vit")
    build_model("vit").save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_images_by_an_encoder_of_images(image_repository, tmp_path):
    pipe = pipeline(TASK, model=str(image_repository), device="cpu")
    support = {"red": coloured(3, 0, 0), "green": coloured(3, 1, 0)}
    queries = [*coloured(2, 0, 5), *coloured(2, 1, 5)]
    answers = pipe(queries, support=support)
    assert [answer[0]["label"] for answer in answers] == ["red", "red", "green", "green"]
    # A pooler without weights would be random, and another one each time.
    again = pipeline(TASK, model=str(image_repository), device="cpu")(queries, support=support)
    assert [scores(one) for one in again] == [pytest.approx(scores(one), abs=1e-5) for one in answers]
    paths = {name: [tmp_path / f"{name}-{number}.png" for number in range(3)] for name in support}
    for name, files in paths.items():
        for picture, file in zip(support[name], files, strict=True):
            picture.save(file)
    queries[0].save(tmp_path / "query.png")
    again = pipe(str(tmp_path / "query.png"), support=paths)
    assert again[0]["label"] == "red" and scores(again) == pytest.approx(scores(answers[0]), abs=1e-5)
    with pytest.raises(BackboneError, match="Input 0: 'a text' cannot be read as an image.*takes images"):
        pipe("a text", support=support)


def test_images_and_texts_by_a_model_of_both(tmp_path):
    parts = processors("clip", tmp_path)
    pipe = FewShotPipeline(model=image_text_model("clip"), **parts, device="cpu")
    support = {"red": coloured(3, 0, 0), "green": coloured(3, 1, 0)}
    queries = coloured(2, 0, 5)
    assert scores(pipe(queries[0], support=support)) != scores(
        pipe(queries[0], support=support, use_label_texts=False)
    )
    assert pipe("a train", support=SUPPORT)[0]["label"] in SUPPORT
    with pytest.raises(FewShotError, match="The supports are images, the queries texts"):
        pipe("a train", support=support)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_encoder_of_a_published_few_shot_model(pooling, tmp_path):
    """A stock class (the head folds over the first token) and one of ours (over the mean)."""
    backbone = Backbone.from_pretrained(str(save_encoder("bert", tmp_path / "encoder")), pooling=pooling)
    exported = export_model(backbone, random_head(32), NAMES)
    assert exported.stock == (pooling == "cls")
    pipe = pipeline(TASK, model=str(publish(exported, tmp_path / "published")), device="cpu")
    torch.testing.assert_close(pipe.backbone.encode(texts()), backbone.encode(texts()), atol=1e-5, rtol=1e-5)
    first = FewShotPipeline(backbone=backbone, device="cpu")
    assert scores(pipe("a train", support=SUPPORT)) == pytest.approx(
        scores(first("a train", support=SUPPORT)), abs=1e-4
    )


def test_the_encoder_of_a_published_image_model(tmp_path):
    backbone = Backbone.from_pretrained(str(save_encoder("clip", tmp_path / "encoder")))
    exported = export_model(backbone, random_head(16, normalize=True), NAMES)
    pipe = pipeline(TASK, model=str(publish(exported, tmp_path / "published")), device="cpu")
    torch.testing.assert_close(pipe.backbone.encode(pictures()), backbone.encode(pictures()), atol=1e-5, rtol=1e-5)
