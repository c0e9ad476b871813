"""Examples in two splits are found whatever their spelling or file format, and the policy is carried out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_fsl.config import DataConfig
from hf_fsl.data import DataError, load_splits
from hf_fsl.data.overlap import normalise


@pytest.fixture
def overlapping(three_files, rows):
    """One example is in all three, and one in train and test."""

    def config(**options):
        train = [
            *rows(12),
            {"text": "In all THREE.", "label": "food"},
            {"text": "train and   test", "label": "food"},
            {"text": "twice here", "label": "time"},
            {"text": "twice here", "label": "time"},
        ]
        validation = [*rows(6, start=50), {"text": "in all three", "label": "food"}]
        test = [
            *rows(6, start=80),
            {"text": "in all, three!", "label": "food"},
            {"text": "Train and test", "label": "time"},
        ]
        return three_files(train, validation, test, **options)

    return config


def test_error_says_how_many_which_and_what_to_do(overlapping):
    with pytest.raises(DataError) as caught:
        load_splits(overlapping())
    message = str(caught.value)
    assert "1 in train and validation, 2 in train and test, 1 in validation and test" in message
    assert "'In all THREE.' (train/validation)" in message and "'in all three' (validation/test)" in message
    assert "drop_train" in message and "ignore" in message


def test_drop_train(overlapping):
    splits = load_splits(overlapping(on_overlap="drop_train"))
    assert [len(data) for data in (splits.train, splits.validation, splits.test)] == [14, 6, 8]
    assert splits.record.overlap == {"train/validation": 1, "train/test": 2, "validation/test": 1}
    assert splits.record.dropped == 3 and splits.record.on_overlap == "drop_train"
    assert list(splits.train["text"]).count("twice here") == 2
    assert splits.record.splits["train"].rows == 14


def test_ignore_counts_and_keeps(overlapping):
    splits = load_splits(overlapping(on_overlap="ignore"))
    assert [len(data) for data in (splits.train, splits.validation, splits.test)] == [16, 7, 8]
    assert splits.record.overlap == {"train/validation": 1, "train/test": 2, "validation/test": 1}
    assert splits.record.dropped == 0


def test_copies_within_a_split_are_no_overlap(three_files, rows):
    splits = load_splits(three_files(rows(12) * 2, rows(3, start=20) * 2, rows(3, start=40)))
    assert splits.record.overlap == {} and len(splits.train) == 24


def test_nothing_left_after_dropping(three_files, rows):
    config = three_files(rows(12), rows(3, start=20), rows(3, start=20), on_overlap="drop_train")
    with pytest.raises(DataError, match="The validation split .* is empty: all its 3 examples occur in a later split"):
        load_splits(config)


def test_pairs_overlap_only_with_both_texts(three_files, rows):
    def pairs(other):
        return [row | {"other": other} for row in rows(6)]

    config = three_files(pairs("one"), pairs("two"), pairs("three"), text_pair_column="other")
    assert load_splits(config).record.overlap == {}
    config = three_files(pairs("one"), pairs("two"), pairs("One!"), text_pair_column="other")
    with pytest.raises(DataError, match=r"6 in train and test.*'example number 0' \+ 'one' \(train/test\)"):
        load_splits(config)


SAME = [
    ("Hello,  World!", "hello world"),
    ("ﬁne", "FINE"),
    ("Straße", "STRASSE"),
    ("a\u00a0b\n", "A b"),
    ("«e-mail»", "e mail"),
]
OTHER = [("great 😀", "great 😡"), ("कि", "की"), ("C++", "C"), ("!!!", "???"), ("not good", "good")]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_text_in_another_spelling(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_different_texts_stay_different(one, other):
    assert normalise(one) != normalise(other)


def test_pictures_are_compared_by_content(image_folder, picture):
    picture(0).save(image_folder / "test" / "dog" / "again.bmp")  # the first training picture, in another format
    options = {"path": str(image_folder), "image_column": "image"}
    with pytest.raises(DataError, match=r"overlap: 1 in train and test\. For example image 0 of train, .*cat/0\.png"):
        load_splits(DataConfig(**options))
    splits = load_splits(DataConfig(**options, on_overlap="drop_train"))
    assert len(splits.train) == 11 and splits.record.dropped == 1


def test_scans_of_16_bits_are_refused_not_made_one_white(image_folder):
    for number, level in enumerate((40000, 60000)):
        Image.fromarray(np.full((8, 8), level, np.uint16)).save(image_folder / "train" / "cat" / f"scan{number}.png")
    with pytest.raises(DataError, match=r"scan0.png\) cannot be read: A picture of mode I;16 has more than 8 bits"):
        load_splits(DataConfig(path=str(image_folder), image_column="image"))


def test_the_same_pixels_in_another_shape_are_another_picture(image_folder, picture):
    Image.frombytes("RGB", (16, 4), picture(0).tobytes()).save(image_folder / "test" / "dog" / "wide.png")
    splits = load_splits(DataConfig(path=str(image_folder), image_column="image"))
    assert splits.record.overlap == {}
