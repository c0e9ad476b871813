"""Sources, columns, labels, splits and overlap; every kind of unusable data has its own message."""

from __future__ import annotations

import csv
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_fsl.config import DataConfig
from hf_fsl.data import DataError, load_split, load_splits
from hf_fsl.tasks import Task


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def rows(split="train", count=12, classes=("cat", "dog", "fish")):
    return [{"text": f"{split} text {i}", "label": classes[i % len(classes)], "other": i} for i in range(count)]


def write_json(folder, **splits):
    folder.mkdir(exist_ok=True)
    files = {}
    for name, content in splits.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        files[name] = str(path)
    return files


def config(files, **options):
    return DataConfig(**{"path": "json", "data_files": files, "text_column": "text"} | options)


@pytest.fixture
def three(tmp_path):
    return write_json(
        tmp_path / "d", train=rows(), validation=rows("validation", 6), test=rows("test", 6, ("dog", "fish", "cat"))
    )


def test_string_labels_become_sorted_indices(three):
    splits = load_splits(config(three))
    assert splits.task == Task(modality="text", label_names=("cat", "dog", "fish"))
    assert splits.train.column_names == ["text", "label"]
    assert splits.test[0] == {"text": "test text 0", "label": 1}
    assert splits.record.splits["train"].class_counts == {"cat": 4, "dog": 4, "fish": 4}
    assert splits.record.overlap == {}


def test_csv_tsv_and_parquet_files(tmp_path):
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        path = tmp_path / f"data{suffix}"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label", "other"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows(count=30))
        splits = load_splits(DataConfig(path=str(path), text_column="text", validation_split=None, test_split=None))
        assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [21, 3, 6]
    path = tmp_path / "data.parquet"
    datasets.Dataset.from_list(rows(count=30)).to_parquet(path)
    splits = load_splits(DataConfig(path=str(path), text_column="text", validation_split=None, test_split=None))
    assert len(splits.train) == 21


def test_stratified_shares_are_disjoint_deterministic_and_keep_every_class(three):
    options = {"validation_split": None, "test_split": None, "test_fraction": 0.25}
    first, second = (load_splits(config({"train": three["train"]}, **options)) for _ in range(2))
    texts = [set(split["text"]) for split in (first.train, first.validation, first.test)]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 12
    assert first.test["text"] == second.test["text"]
    other = load_splits(config({"train": three["train"]}, **options, split_seed=1))
    assert other.test["text"] != first.test["text"]
    for name in ("train", "validation", "test"):
        assert all(count >= 1 for count in first.record.splits[name].class_counts.values())


def test_image_folder(tmp_path):
    generator = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for label in ("a", "b"):
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for i in range(3):
                pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / label / f"{i}.png")
    splits = load_splits(DataConfig(path=str(tmp_path / "images"), image_column="image"))
    assert splits.task.modality == "image" and splits.task.label_names == ("a", "b")
    assert splits.train[0]["image"].size == (8, 8)


def test_unreadable_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    paths = [str(tmp_path / "b.png"), str(tmp_path / "a.png")]
    files = write_json(tmp_path / "d", train=[{"image": p, "label": "x"} for p in paths])
    with pytest.raises(DataError, match=r"Image 1 of split 'train' \(.*a\.png\) cannot be read"):
        load_splits(config(files, text_column=None, image_column="image", validation_split=None, test_split=None))


def test_text_pairs_and_integer_labels_with_names(tmp_path):
    content = [{"p": f"p{i}", "h": f"h{i}", "y": i % 2} for i in range(20)]
    files = write_json(tmp_path / "d", train=content)
    options = {"text_column": "p", "text_pair_column": "h", "label_column": "y", "label_names": ["no", "yes"],
               "validation_split": None, "test_split": None}  # fmt: skip
    splits = load_splits(config(files, **options))
    assert splits.task.modality == "text-pair" and splits.task.label_names == ("no", "yes")
    assert set(splits.train.column_names) == {"text", "text_pair", "label"}
    with pytest.raises(DataError, match="names 1 classes, but label 1 occurs"):
        load_splits(config(files, **options | {"label_names": ["no"]}))


def test_multi_label(tmp_path):
    content = [{"text": f"t{i}", "label": ["a"] if i % 2 else ["a", "b"]} for i in range(20)]
    options = {"problem_type": "multi_label_classification", "validation_split": None, "test_split": None}
    splits = load_splits(config(write_json(tmp_path / "d", train=content), **options))
    assert splits.task.multi_label and splits.task.label_names == ("a", "b")
    assert sorted({tuple(row) for row in splits.train["label"]}) == [(0,), (0, 1)]
    with pytest.raises(DataError, match="Set data.problem_type: multi_label_classification"):
        load_splits(config(write_json(tmp_path / "d", train=content), validation_split=None, test_split=None))


def test_missing_column_names_what_is_there(three):
    with pytest.raises(DataError, match=r"no column 'txt'; it has text, label, other. Did you mean 'text'"):
        load_splits(config(three, text_column="txt"))


def test_missing_split_names_what_is_there(three):
    with pytest.raises(DataError, match=r"no split 'dev'; it has train, validation, test.*set it to null"):
        load_splits(config(three, validation_split="dev"))


def test_missing_source(tmp_path):
    with pytest.raises(DataError, match="there is no file or folder"):
        load_splits(DataConfig(path=str(tmp_path / "nowhere.csv"), text_column="text"))


def test_unknown_configuration_names_what_is_there(hub):
    from hf_fsl.resources import recipes_folder

    emoji = str(recipes_folder() / "data" / "emoji")
    with pytest.raises(DataError, match=r"no configuration 'apple'; it has .*noto"):
        load_splits(DataConfig(path=emoji, name="apple", image_column="image", label_column="category"))


def test_class_with_too_few_examples(tmp_path, three):
    files = three | write_json(tmp_path / "e", train=[*rows(), {"text": "x", "label": "zebra", "other": 0}])
    with pytest.raises(DataError, match=r"at least 2 training examples; 'zebra' has 1"):
        load_splits(config(files))


@pytest.mark.parametrize("text", ["", "  \t"])
def test_empty_text(tmp_path, three, text):
    bad = [*rows("test", 6), {"text": text, "label": "cat", "other": 0}]
    with pytest.raises(DataError, match=r"1 texts in split 'test' of json are empty \(rows 6\)"):
        load_splits(config(three | write_json(tmp_path / "e", test=bad)))


def test_label_unseen_in_training(tmp_path, three):
    bad = [*rows("test", 6), {"text": "x", "label": "zebra", "other": 0}]
    with pytest.raises(DataError, match=r"Split 'test' has labels .* 'zebra' \(1\). The classes are cat, dog, fish"):
        load_splits(config(three | write_json(tmp_path / "e", test=bad)))


def test_unlabelled_examples_are_an_error_or_dropped(tmp_path, three):
    content = [{"text": f"t{i}", "label": (-1 if i == 3 else i % 2)} for i in range(20)]
    options = {"validation_split": None, "test_split": None}
    files = write_json(tmp_path / "e", train=content)
    with pytest.raises(DataError, match=r"(?s)have no label \(rows 3\).*drop_unlabelled"):
        load_splits(config(files, **options, label_names=["a", "b"]))
    splits = load_splits(config(files, **options, label_names=["a", "b"], drop_unlabelled=True))
    assert sum(len(split) for split in (splits.train, splits.validation, splits.test)) == 19


def overlapping(tmp_path, three):
    train = [*rows(), {"text": "Test  TEXT, 0!", "label": "cat", "other": 0}]
    return three | write_json(tmp_path / "o", train=train)


def test_overlap_is_an_error_by_default(tmp_path, three):
    with pytest.raises(DataError, match=r"(?s)1 in train and test. For example 'Test  TEXT, 0!'.*drop_train.*ignore"):
        load_splits(config(overlapping(tmp_path, three)))


def test_overlap_can_be_dropped_or_ignored_and_is_recorded(tmp_path, three):
    files = overlapping(tmp_path, three)
    dropped = load_splits(config(files, on_overlap="drop_train"))
    assert len(dropped.train) == 12 and dropped.record.dropped == 1 and dropped.record.overlap == {"train/test": 1}
    ignored = load_splits(config(files, on_overlap="ignore"))
    assert len(ignored.train) == 13 and ignored.record.dropped == 0 and ignored.record.overlap == {"train/test": 1}


def test_overlap_of_pictures_is_found_by_content(tmp_path):
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    for split, name in (("train", "x.png"), ("validation", "other.bmp"), ("test", "y.png")):
        for label in ("a", "b"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(2):
                other = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(other).save(folder / f"{i}.png")
        Image.fromarray(picture).save(tmp_path / "images" / split / "a" / name)
    with pytest.raises(DataError, match="1 in train and validation, 1 in train and test, 1 in validation and test"):
        load_splits(DataConfig(path=str(tmp_path / "images"), image_column="image"))


def test_subsets_are_stratified(three):
    splits = load_splits(config(three, max_train_samples=6, max_eval_samples=3))
    assert splits.record.splits["train"].class_counts == {"cat": 2, "dog": 2, "fish": 2}
    assert len(splits.validation) == len(splits.test) == 3


def test_one_split_mapped_to_a_models_labels(three):
    task = Task(modality="text", label_names=("fish", "dog", "cat"))
    assert load_split(config(three), "test", task)[0]["label"] == 1
    with pytest.raises(DataError, match="'cat'"):
        load_split(config(three), "test", Task(modality="text", label_names=("fish", "dog")))
    with pytest.raises(DataError, match="no split 'dev'; it has train, validation, test"):
        load_split(config(three), "dev", task)
