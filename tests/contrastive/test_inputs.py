"""Captions, pictures and what is drawn of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_fsl.config import AugmentationConfig, ConfigError, ContrastiveConfig, PairsConfig, load_config
from hf_fsl.contrastive.evaluation import Scores, found_within, measurements, quick_metrics
from hf_fsl.contrastive.inputs import DRAWS, augment
from hf_fsl.data import DataError, load_pairs
from tests.helpers import tiny_pairs as tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs")
    tiny.write_pairs(path)
    return path


def test_captions_are_filled_from_columns_lists_and_class_names(folder):
    config = PairsConfig(path=str(folder), captions=["a {name}", "{said}", "{name} of {kind}"], class_column="kind")
    pairs = load_pairs(config)
    assert pairs.train.captions[0] == ["a train 0", "only", "train 0 of food fruit"]
    assert pairs.train.captions[1] == ["a train 1", "one", "two 1", "train 1 of sky blue"]
    assert pairs.tests["test"].retrieval[:2] == ["a test 0", "a test 1"]
    assert (pairs.validation.classes, pairs.validation.labels) == (["food fruit", "sky blue"], [0, 1, 0, 1])
    assert pairs.record.splits["test"].class_counts == {"food fruit": 3, "sky blue": 2}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"captions": ["a {nme}"]}, "data.captions: split 'train' .* no column 'nme'.*Did you mean 'name'"),
        ({"captions": ["{name}"], "retrieval_caption": "{said}"}, None),
        ({"captions": ["{name}"], "class_column": "said"}, "holds no class names"),
        ({"captions": ["{name}"], "test_split": "novel"}, "has no split 'novel'; it has"),
        ({"captions": ["{name}"], "validation_split": "train"}, "The splits overlap: 6 in train and validation"),
    ],
)
def test_unusable_data_is_named(folder, fields, message):
    config = PairsConfig(path=str(folder), **fields)
    if message is None:
        assert load_pairs(config).validation.retrieval[0] == "only"
        return
    with pytest.raises(DataError, match=message):
        load_pairs(config)


def test_augmentation_without_settings_changes_nothing():
    pixels, draws = torch.rand(3, 3, 8, 8), torch.rand(3, DRAWS)
    torch.testing.assert_close(augment(pixels, draws, AugmentationConfig(), torch.ones(3) > 0), pixels)
    assert not AugmentationConfig(flip_unless=["left"]).active


def test_mirroring_mirrors_exactly_those_that_may_be():
    pixels, draws = torch.rand(2, 3, 8, 8), torch.rand(2, DRAWS)
    out = augment(pixels, draws, AugmentationConfig(flip=1.0), torch.tensor([True, False]))
    torch.testing.assert_close(out[0], pixels[0].flip(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(out[1], pixels[1], atol=1e-5, rtol=0)


def test_colour_changes_keep_white_and_shift_moves_by_pixels():
    white, draws = torch.ones(4, 3, 8, 8), torch.rand(4, DRAWS)
    out = augment(white, draws, AugmentationConfig(hue=0.5, saturation=0.9, grayscale=0.5), torch.ones(4) > 0)
    torch.testing.assert_close(out, white, atol=1e-3, rtol=0)
    picture = torch.zeros(1, 3, 8, 8)
    picture[..., 4] = 1
    draws = torch.full((1, DRAWS), 0.5)
    draws[0, 2] = 1.0  # all the way to one side: a quarter of 8 pixels
    moved = augment(picture, draws, AugmentationConfig(shift=0.25), torch.ones(1) > 0)
    torch.testing.assert_close(moved[..., 2], torch.ones(1, 3, 8), atol=1e-4, rtol=0)
    red = torch.zeros(1, 3, 2, 2)
    red[:, 0] = 0.5
    grey = augment(red, torch.zeros(1, DRAWS), AugmentationConfig(grayscale=1.0), torch.ones(1) > 0)
    assert torch.allclose(grey[:, 0], grey[:, 1]) and torch.allclose(grey[:, 0], torch.tensor(0.299 * 0.5), atol=1e-3)


def test_measurements_have_chance_and_intervals_around_the_value():
    by_class = np.eye(2)[[0, 1, 0, 0]]
    by_text = np.array([[3.0, 1, 0, 0, 0, 0], [3, 2, 0, 0, 0, 0], [0, 0, 9, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    scores = Scores(by_class, np.array([0, 1, 1, 0]), by_text, np.array([0, 1, 2, 3]))
    # picture 3 scores everything alike: a tie is no find
    assert found_within(scores, 1).tolist() == [True, False, True, False]
    assert found_within(scores, 5).tolist() == [True, True, True, False]
    quick = quick_metrics(scores)
    assert (quick["accuracy"], quick["retrieval_at_1"], quick["retrieval_at_5"]) == (0.75, 0.5, 0.75)
    measured = measurements(scores, 300)
    assert measured["accuracy"].chance == pytest.approx(1 / 2)
    assert measured["retrieval_at_5"].chance == pytest.approx(5 / 6)
    balanced = measured.pop("balanced_accuracy")
    assert balanced.measurement.value == pytest.approx((1 + 0.5) / 2) and balanced.chance == pytest.approx(1 / 2)
    for name, row in measured.items():
        low, high = row.measurement.ci95
        assert low < row.measurement.value == quick[name] < high


def test_every_problem_of_a_config_is_listed():
    with pytest.raises(ConfigError) as caught:
        load_config(
            ContrastiveConfig, None,
            ["--data.path", "u/d", "--data.captions", "[picture]", "--data.label_templates", "[x]",
             "--model.image.model_name_or_path", "u/m", "--model.image.method", "frozen", "--augmentation.flip", "0.5",
             "--training.per_device_train_batch_size", "1", "--training.seeds", "[0, 1]", "--loss.bias", "1"],
        )  # fmt: skip
    text = str(caught.value)
    for part in (
        "'picture' names no column", "one place {} for the class", "name a whole dual encoder, or both of its towers",
        "a frozen image tower is computed once", "at least 2", "one seed a run", "bias: belongs to name: siglip",
        "metric_for_best_model: one of ['retrieval_at_1', 'retrieval_at_5', 'loss'], got 'accuracy'",
    ):  # fmt: skip
        assert part in text, (part, text)
