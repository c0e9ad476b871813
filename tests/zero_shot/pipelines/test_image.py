from __future__ import annotations

import base64
import itertools
import weakref

import datasets
import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_fsl import ZeroShotImagePipeline
from hf_fsl.zero_shot import ZeroShotError
from tests.helpers.image_text import KINDS, count_calls, image_text_model, images, label_names, processors

TASK = "zero-shot-image-classification"
LABELS = ["cat", "big red house", "the river", "a small blue fish and a bird"]


@pytest.fixture(params=KINDS)
def pipes(request, tmp_path):
    """The stock pipeline and ours, of the same model."""
    return both(request.param, tmp_path)


@pytest.fixture
def ours(tmp_path):
    return both("clip", tmp_path)[1]


def both(kind, folder):
    parts = {"model": image_text_model(kind), **processors(kind, folder / "tokenizer"), "device": "cpu"}
    return pipeline(TASK, **parts), pipeline(TASK, pipeline_class=ZeroShotImagePipeline, **parts)


def assert_same(answers, expected):
    """The same score for every label, and the same order but for ties."""
    assert len(answers) == len(expected) > 0
    for answer, other in zip(answers, expected, strict=True):
        own, stock = ({row["label"]: row["score"] for row in rows} for rows in (answer, other))
        assert own == pytest.approx(stock, abs=1e-5)
        assert [row["score"] for row in answer] == pytest.approx([row["score"] for row in other], abs=1e-5)
        assert all(list(row) == ["score", "label"] for row in answer)


def test_the_answers_are_those_of_the_stock_pipeline(pipes, tmp_path):
    stock, ours = pipes
    pictures = images(7)
    expected = stock(pictures, LABELS)
    assert max(row["score"] for answer in expected for row in answer) > 1.1 / len(LABELS)
    assert_same(ours(pictures, LABELS), expected)
    assert_same(ours(pictures, candidate_labels=LABELS, batch_size=3), expected)
    assert_same(ours(tuple(pictures), ", ".join(LABELS), num_workers=2, progress=True), expected)
    assert_same([ours(pictures[0], LABELS)], [stock(pictures[0], LABELS)])
    assert_same([ours(images=pictures[0], candidate_labels=LABELS)], expected[:1])
    assert_same(list(ours((picture for picture in pictures), candidate_labels=LABELS, batch_size=4)), expected)
    path = tmp_path / "picture.png"
    pictures[0].convert("RGBA").save(path)
    assert_same([ours(str(path), LABELS), *ours([path], LABELS)], [stock(str(path), LABELS)] * 2)


def test_texts_that_stand_for_images_and_the_timeout_reach_the_loader(ours, tmp_path, monkeypatch):
    picture = images(1)[0]
    picture.save(tmp_path / "picture.png")
    encoded = base64.b64encode((tmp_path / "picture.png").read_bytes()).decode()
    assert ours(f"data:image/png;base64,{encoded}", LABELS) == ours(picture, LABELS)
    asked = []
    monkeypatch.setattr("hf_fsl.models.backbones.inputs.open_picture", lambda *given: asked.append(given) or picture)
    assert ours("http://127.0.0.1:9/cat.png", LABELS, timeout=3.0) == ours(picture, LABELS)
    assert asked[0] == ("http://127.0.0.1:9/cat.png", 3.0)
    with pytest.raises(ZeroShotError, match="Input 0 is a text"):
        ours("http://127.0.0.1:9/cat.png", LABELS, open_files=False)


def test_frames_are_columns_and_16_bits_are_not_clipped(ours, tmp_path):
    pictures = images(2)
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    expected = ours(pictures, LABELS)
    assert_same(list(ours(pandas.DataFrame({"path": paths}), LABELS)), expected)
    assert_same(list(ours(pandas.Series(paths), LABELS)), expected)
    assert np.allclose(ours.evidence(pandas.Series(paths), LABELS), ours.evidence(pictures, LABELS))
    Image.fromarray(np.full((16, 16), 60000, np.uint16)).save(paths[0])
    with pytest.raises(ZeroShotError, match="Input 0: .*mode I;16"):
        ours(paths, LABELS)


def test_templates_and_label_counts_as_in_the_stock_pipeline(pipes):
    stock, ours = pipes
    pictures = images(2)
    for labels, template in itertools.product((["cat"], label_names(40)), ("{}", "the {} is not red")):
        options = {"candidate_labels": labels, "hypothesis_template": template}
        assert_same(ours(pictures, **options), stock(pictures, **options))


def test_data_sets_are_streamed_and_have_a_length(pipes):
    stock, ours = pipes
    pictures = images(5)
    rows = datasets.Dataset.from_dict({"image": pictures}, datasets.Features({"image": datasets.Image()}))
    expected = list(stock(KeyDataset(rows, "image"), candidate_labels=LABELS))
    answers = ours(KeyDataset(rows, "image"), candidate_labels=LABELS, batch_size=2)
    assert len(answers) == 5
    assert_same(list(answers), expected)
    assert_same(list(ours(rows["image"], candidate_labels=LABELS)), expected)


def test_options_may_be_given_to_the_pipeline_and_changed_in_a_call(tmp_path):
    stock, _ = both("clip", tmp_path)
    parts = {"model": stock.model, "tokenizer": stock.tokenizer, "image_processor": stock.image_processor}
    pipe = ZeroShotImagePipeline(**parts, candidate_labels=LABELS, hypothesis_template="the {}", batch_size=2)
    pictures = images(3)
    assert_same(pipe(pictures), stock(pictures, LABELS, hypothesis_template="the {}"))
    assert_same(pipe(pictures, LABELS[:2]), stock(pictures, LABELS[:2], hypothesis_template="the {}"))


def test_a_saved_model_is_loaded_by_the_factory(tmp_path):
    stock, ours = both("clip", tmp_path)
    ours.save_pretrained(tmp_path / "model")
    loaded = pipeline(TASK, model=str(tmp_path / "model"), pipeline_class=ZeroShotImagePipeline)
    assert_same(loaded(images(2), LABELS), stock(images(2), LABELS))


def test_several_templates_and_descriptions(ours):
    pictures = images(2)
    options = {"hypothesis_template": ["the {}", "a {}"], "label_texts": {"cat": "very small bird"}}
    logits = ours.scorer.logits(
        pictures, LABELS, options["hypothesis_template"], label_texts={"cat": "very small bird"}
    )
    for answer, row in zip(ours(pictures, LABELS, **options), logits.softmax(1), strict=True):
        assert {line["label"]: line["score"] for line in answer} == pytest.approx(
            dict(zip(LABELS, row.tolist(), strict=True))
        )


def test_the_evidence_of_one_image_and_of_none(ours):
    pictures = images(2)
    evidence = ours.evidence(pictures, LABELS)
    assert np.allclose(evidence, ours.scorer.logits(pictures, LABELS))
    assert np.allclose(ours.evidence(pictures[0], LABELS), evidence[:1])
    assert ours.evidence([], LABELS).shape == (0, len(LABELS))
    with pytest.raises(ZeroShotError, match="needs an image"):
        ours.evidence(None, LABELS)


def test_tokenizer_kwargs_reach_the_tokenizer(ours):
    cut = ours(images(1), LABELS, hypothesis_template="{}", tokenizer_kwargs={"truncation": True, "max_length": 3})
    first_words = [label.split()[0] for label in LABELS]
    expected = ours(images(1), first_words, hypothesis_template="{}")
    assert [row["score"] for row in cut[0]] == pytest.approx([row["score"] for row in expected[0]], abs=1e-6)


def test_each_tower_does_its_work_once(ours, monkeypatch):
    texts = count_calls(monkeypatch, ours.model, "get_text_features")
    pixels = count_calls(monkeypatch, ours.model, "get_image_features")
    for _ in range(3):
        ours(images(70), LABELS)
    assert sum(texts) == len(LABELS)
    assert pixels == [32, 32, 6] * 3


def test_a_generator_is_read_a_batch_ahead_and_not_kept(ours):
    read, pictures = [], []

    def endless():
        for number in itertools.count():
            picture = images(1, seed=number)[0]
            pictures.append(weakref.ref(picture))
            read.append(number)
            yield picture

    answers = ours(endless(), candidate_labels=LABELS, batch_size=4)
    assert read == []
    for number, _ in enumerate(itertools.islice(answers, 40)):
        assert len(read) == number // 4 * 4 + 4
        assert sum(picture() is not None for picture in pictures) <= 5
    with pytest.raises(TypeError):
        len(answers)


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [("no/such/file.png", "'no/such/file.png'"), (None, "NoneType"), (3, "int"), ({"image": 1}, "KeyDataset")],
)
def test_an_input_that_is_no_image_is_named(ours, wrong, shown):
    with pytest.raises(ZeroShotError, match=rf"(?i)Input 2.*{shown}"):
        ours([*images(2), wrong], LABELS)
    answers = ours(iter([*images(2), wrong]), LABELS, batch_size=1)
    assert len(list(itertools.islice(answers, 2))) == 2
    with pytest.raises(ZeroShotError, match="(?i)input 2"):
        next(answers)


def test_a_file_that_is_no_image_is_named(ours, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand nothing more")
    with pytest.raises(ZeroShotError, match=r"Input 0.*broken\.png"):
        ours(str(tmp_path / "broken.png"), LABELS)
    for wrong in (np.zeros((4, 4, 3)), torch.zeros(3, 4, 4), {"image": images(1)[0]}, 3):
        with pytest.raises(ZeroShotError, match="(?i)image"):
            ours(wrong, LABELS)


def test_bad_questions_are_refused_before_any_image_is_read(ours):
    unread = (pytest.fail("an image was read") for _ in range(1))
    for options, rule in (
        ({}, "at least one candidate label"),
        ({"candidate_labels": []}, "at least one candidate label"),
        ({"candidate_labels": ["cat", "dog", "cat"]}, "must differ"),
        ({"candidate_labels": LABELS, "hypothesis_template": "a photo"}, "one place"),
        ({"candidate_labels": LABELS, "label_texts": {"horse": "car"}}, "Texts for horse"),
        ({"candidate_labels": LABELS, "batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(ZeroShotError, match=rule):
            ours(unread, **options)
    with pytest.raises(ZeroShotError, match="needs an image"):
        ours(None, LABELS)
    with pytest.raises(TypeError, match="no option hypotesis_template"):
        ours(unread, LABELS, hypotesis_template="{}")


def test_a_model_without_both_towers_is_refused(tmp_path):
    from tests.helpers.tiny_models import build_model

    with pytest.raises(ZeroShotError, match="a text and an image tower"):
        ZeroShotImagePipeline(model=build_model("vit"), **processors("clip", tmp_path))
