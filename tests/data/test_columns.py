"""Columns are found, renamed and checked."""

from __future__ import annotations

import io

import datasets
import pytest

from hf_fsl.config import DataConfig
from hf_fsl.core.task import Task
from hf_fsl.data import DataError, load_split, load_splits


def test_missing_column_names_those_there_are_and_a_close_one(write, rows, made):
    path = write("a.csv", rows(6))
    with pytest.raises(DataError, match="no column 'txet'; it has text, label. Did you mean 'text'"):
        load_splits(made(path, text_column="txet"))
    with pytest.raises(DataError, match="data.label_column: .* no column 'intent'; it has text, label"):
        load_splits(made(path, label_column="intent"))


def test_other_columns_are_dropped_and_names_may_be_swapped(write, rows, made):
    given = [{"id": i, "label": row["text"], "text": row["label"]} for i, row in enumerate(rows(30))]
    splits = load_splits(made(write("a.jsonl", given), text_column="label", label_column="text"))
    assert splits.train.column_names == ["text", "label"]
    assert splits.task.label_names == ("animal", "food", "time")
    assert splits.train[0]["text"].startswith("example number")


def test_one_column_in_two_roles(write, rows, made):
    with pytest.raises(DataError, match="text_column: label, label_column: label"):
        load_splits(made(write("a.csv", rows(6)), text_column="label"))


def test_pairs(write, rows, made):
    given = [{"premise": row["text"], "hypothesis": f"h {i}", "label": row["label"]} for i, row in enumerate(rows(30))]
    splits = load_splits(made(write("a.jsonl", given), text_column="premise", text_pair_column="hypothesis"))
    assert splits.task.modality == "text-pair"
    assert splits.train.column_names == ["text", "text_pair", "label"]


@pytest.mark.parametrize("empty", ["", " \t ", None])
def test_empty_texts(empty, write, rows, made):
    given = rows(12)
    given[3]["text"] = given[7]["text"] = empty
    with pytest.raises(DataError, match=r"data\.text_column: 2 texts in split 'train' of .* are empty \(rows 3, 7\)"):
        load_splits(made(write("a.jsonl", given)))


def test_empty_texts_are_skipped_where_asked_for(write, made, rows):
    given = [row | {"other": "x"} for row in rows(30)]
    given[3]["text"], given[7]["text"], given[7]["other"], given[8]["other"] = "", " ", "", None
    splits = load_splits(made(write("a.jsonl", given), text_pair_column="other", on_empty="skip"))
    assert sum(split.rows for split in splits.record.splits.values()) == 27
    assert splits.record.notes == ["3 examples of train without a text left out"]


def test_the_second_text_is_checked_too(write, rows, made):
    given = [row | {"other": "x" if i else ""} for i, row in enumerate(rows(12))]
    with pytest.raises(DataError, match=r"data\.text_pair_column: 1 texts .* \(rows 0\)"):
        load_splits(made(write("a.jsonl", given), text_pair_column="other"))


def test_a_column_of_numbers_is_no_text(write, rows, made):
    given = [row | {"text": i} for i, row in enumerate(rows(12))]
    with pytest.raises(DataError, match=r"12 values in split 'train' .* \(rows 0, 1, 2, 3, 4, …; the first is 0\)"):
        load_splits(made(write("a.jsonl", given)))


def test_folder_of_images(image_folder):
    splits = load_splits(DataConfig(path=str(image_folder), image_column="image"))
    assert splits.task.modality == "image" and splits.task.label_names == ("cat", "dog")
    assert splits.train.column_names == ["image", "label"]
    assert isinstance(splits.train.features["image"], datasets.Image) and splits.train.features["image"].decode
    assert splits.train[0]["image"].size == (8, 8)
    assert splits.record.splits["test"].class_counts == {"cat": 2, "dog": 2}


def test_folder_of_images_without_splits(image_folder, made):
    splits = load_splits(made(image_folder / "train", image_column="image"))
    assert [len(data) for data in (splits.train, splits.validation, splits.test)] == [8, 2, 2]


def test_images_stored_as_bytes_and_as_paths(tmp_path, picture, write, made):
    def encoded(seed):
        buffer = io.BytesIO()
        picture(seed).save(buffer, "PNG")
        return buffer.getvalue()

    stored = [{"picture": {"bytes": encoded(i), "path": None}, "label": "ab"[i % 2]} for i in range(20)]
    features = datasets.Features(picture=datasets.Image(), label=datasets.Value("string"))
    splits = load_splits(made(write("a.parquet", stored, features), image_column="picture"))
    assert splits.train[0]["image"].size == (8, 8)

    for i in range(20):
        picture(i).save(tmp_path / f"{i}.png")
    paths = [{"file": str(tmp_path / f"{i}.png"), "label": "ab"[i % 2]} for i in range(20)]
    splits = load_splits(made(write("a.csv", paths), image_column="file"))
    assert splits.train[0]["image"].size == (8, 8)


def test_an_unreadable_image_is_named(image_folder):
    (image_folder / "validation" / "dog" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"Image 3 of split 'validation' \(.*validation/dog/1\.png\) cannot be read"):
        load_splits(DataConfig(path=str(image_folder), image_column="image"))


def test_an_image_cut_short_is_named(image_folder, picture):
    """Its header is whole, so that only decoding finds it."""
    buffer = io.BytesIO()
    picture(0, size=64).save(buffer, "JPEG")
    (image_folder / "train" / "cat" / "0.png").write_bytes(buffer.getvalue()[:-400])
    with pytest.raises(DataError, match=r"Image 0 of split 'train' \(.*cat/0\.png\) cannot be read: .*truncated"):
        load_splits(DataConfig(path=str(image_folder), image_column="image"))


def test_a_damaged_image_is_found_without_decoding(image_folder):
    """One split for a model is verified, not decoded: a wrong checksum in the PNG is enough."""
    path = image_folder / "test" / "cat" / "1.png"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 0xFF
    path.write_bytes(bytes(content))
    config = DataConfig(path=str(image_folder), image_column="image")
    with pytest.raises(DataError, match=r"Image 1 of split 'test' \(.*test/cat/1\.png\) cannot be read"):
        load_split(config, "test", Task(modality="image", label_names=("cat", "dog")))


def test_a_missing_image(tmp_path, picture, write, made):
    picture(0).save(tmp_path / "0.png")
    given = [{"image": str(tmp_path / f"{i}.png"), "label": "ab"[i % 2]} for i in range(4)]
    with pytest.raises(DataError, match=r"Image 1 of split 'train' \(.*1\.png\) cannot be read: .*No such file"):
        load_splits(made(write("a.csv", given), image_column="image"))


def test_a_column_without_images(write, rows, made):
    given = [row | {"image": i} for i, row in enumerate(rows(12))]
    with pytest.raises(DataError, match=r"data\.image_column: 'image' holds .*int64.*, not images"):
        load_splits(made(write("a.jsonl", given), image_column="image"))
