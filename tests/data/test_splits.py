"""Splits and subsets: stratified, complete, the same for the same seed."""

from __future__ import annotations

from collections import Counter

import datasets
import pytest

from hf_fsl.data import DataError, load_splits
from hf_fsl.data.splits import set_aside, subset


def texts(data):
    return list(data["text"])


def test_both_set_aside_are_disjoint_complete_and_stratified(write, rows, made):
    splits = load_splits(made(write("a.csv", rows(300)), validation_fraction=0.1, test_fraction=0.2))
    parts = [texts(splits.train), texts(splits.validation), texts(splits.test)]
    assert [len(part) for part in parts] == [210, 30, 60]
    assert sorted(sum(parts, [])) == sorted(row["text"] for row in rows(300))
    assert splits.record.splits["validation"].class_counts == {"animal": 10, "food": 10, "time": 10}
    assert splits.record.splits["test"].name == "20% of train, stratified, seed 0"


def test_the_seed_decides(write, rows, made):
    path = write("a.csv", rows(60))
    first, again, other = (load_splits(made(path, split_seed=seed)) for seed in (1, 1, 2))
    assert texts(first.test) == texts(again.test) and texts(first.validation) == texts(again.validation)
    assert texts(first.test) != texts(other.test)


def test_only_validation_is_set_aside(write, rows, made):
    files = {"test": write("b.csv", rows(6, start=900))}
    splits = load_splits(made(write("a.csv", rows(60)), data_files=files, test_split="test"))
    assert [len(data) for data in (splits.train, splits.validation, splits.test)] == [54, 6, 6]


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.95])
def test_small_classes_keep_an_example_on_each_side(fraction):
    labels = [0] * 50 + [1] * 2 + [2]
    stay, aside = set_aside(labels, [str(row) for row in range(53)], fraction, seed=3)
    assert sorted(stay + aside) == list(range(53))
    assert {labels[row] for row in stay} == {0, 1, 2}
    assert {labels[row] for row in aside} == {0, 1}


def test_copies_stay_on_one_side(write, rows, made):
    given = rows(60)
    copies = [row | {"text": row["text"].upper() + "!"} for row in given]
    splits = load_splits(made(write("a.csv", given + copies)))
    assert splits.record.overlap == {}
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 120
    assert set(Counter(text.lower().strip("!") for text in texts(splits.test)).values()) == {2}


def test_a_named_split_that_is_missing(write, rows, made):
    path = write("a.csv", rows(12))
    for role, name in (("validation", "dev"), ("test", "heldout")):
        message = rf"data\.{role}_split: .* no split '{name}'; it has train\..*null for a stratified share of 'train'"
        with pytest.raises(DataError, match=message):
            load_splits(made(path, **{f"{role}_split": name}))


def test_a_missing_training_split(three_files, rows):
    config = three_files(rows(6), rows(3, start=20), rows(3, start=40), train_split="training")
    with pytest.raises(DataError, match=r"train_split: .*'training'; it has train, .*, test\. Name one of these\.$"):
        load_splits(config)


def test_subsets_are_in_proportion_and_repeatable():
    labels = [0] * 80 + [1] * 15 + [2] * 5
    data = datasets.Dataset.from_dict({"text": [str(i) for i in range(100)], "label": labels})
    assert Counter(subset(data, 20, seed=0)["label"]) == {0: 16, 1: 3, 2: 1}
    assert Counter(subset(data, 6, seed=0)["label"]) == {0: 4, 1: 1, 2: 1}
    assert Counter(subset(data, 12, seed=0, least=3)["label"]) == {0: 6, 1: 3, 2: 3}
    assert texts(subset(data, 20, seed=0)) == texts(subset(data, 20, seed=0)) != texts(subset(data, 20, seed=1))
    assert subset(data, 100, seed=0) is data and subset(data, None, seed=0) is data


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 12, 17, 22])
def test_subsets_of_any_size_have_that_size(size):
    labels = [0] * 11 + [1] * 7 + [2] * 1 + [3] * 4
    counts = Counter(subset(datasets.Dataset.from_dict({"label": labels}), size, seed=0, least=2)["label"])
    assert sum(counts.values()) == size
    assert size < 4 or set(counts) == {0, 1, 2, 3}
    assert size < 7 or all(counts[one] >= min(2, labels.count(one)) for one in range(4))


def test_limits_of_the_config(three_files, rows):
    limits = {"max_train_samples": 12, "max_eval_samples": 9}
    record = load_splits(three_files(rows(60), rows(30, start=100), rows(30, start=200), **limits)).record
    assert [split.rows for split in record.splits.values()] == [12, 9, 9]
    assert record.splits["train"].class_counts == {"animal": 4, "food": 4, "time": 4}


def test_a_limit_leaves_rare_classes_what_they_need(three_files, rows):
    """In proportion the rare class would have one of the twelve."""
    train = rows(60, ("animal", "food")) + rows(4, ("time",), start=500)
    config = three_files(train, rows(3, start=100), rows(3, start=200), max_train_samples=12)
    assert load_splits(config).record.splits["train"].class_counts["time"] == 2


def test_too_few_examples_of_a_class(three_files, rows):
    train = [*rows(30), {"text": "a", "label": "plant"}]
    config = three_files(train, rows(3, start=100), rows(3, start=200), min_examples_per_class=3)
    with pytest.raises(DataError, match=r"examples_per_class=3: .*; 'plant' has 1\. .*lower min_examples_per_class"):
        load_splits(config)


def test_a_limit_that_leaves_too_few_examples(three_files, rows):
    config = three_files(rows(60), rows(3, start=100), rows(3, start=200), max_train_samples=4)
    with pytest.raises(DataError, match=r"'food' has 1.*Raise max_train_samples=4 to 6 or more"):
        load_splits(config)


def test_multi_label_is_split_at_random(write, made):
    given = [{"text": f"t {i}", "label": ["ab"[i % 2], "c"]} for i in range(100)]
    config = made(write("a.jsonl", given), problem_type="multi_label_classification", max_eval_samples=7)
    splits = load_splits(config)
    assert [len(data) for data in (splits.train, splits.validation, splits.test)] == [70, 7, 7]
