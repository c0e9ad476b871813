"""Labels of every kind become indices, and wrong ones are named."""

from __future__ import annotations

import datasets
import pytest

from hf_fsl.core.task import Task
from hf_fsl.data import DataError, load_split, load_splits

MULTI = "multi_label_classification"


def labelled(values, count=30):
    return [{"text": f"text {i}", "label": values[i % len(values)]} for i in range(count)]


def class_labels(*names):
    return datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=list(names)))


def read_back(splits):
    """text -> label name(s), over all splits."""
    names = splits.task.label_names
    found = {}
    for data in (splits.train, splits.validation, splits.test):
        for text, label in zip(data["text"], data["label"], strict=True):
            found[text] = [names[one] for one in label] if isinstance(label, list) else names[label]
    return found


def test_text_labels_are_sorted(write, made):
    splits = load_splits(made(write("a.csv", labelled(["b", "c", "a"]))))
    assert splits.task.label_names == ("a", "b", "c")
    assert read_back(splits)["text 0"] == "b"


def test_class_label_keeps_its_order(write, made):
    splits = load_splits(made(write("a.parquet", labelled([0, 1, 2]), class_labels("z", "y", "x"))))
    assert splits.task.label_names == ("z", "y", "x")
    assert read_back(splits)["text 2"] == "x"


def test_class_label_in_another_order_leaving_out_what_does_not_occur(write, made):
    path = write("a.parquet", labelled([0, 1, 2]), class_labels("z", "y", "x", "never"))
    with pytest.raises(DataError, match=r"'never' has 0.*left out by naming the others in data\.label_names"):
        load_splits(made(path))
    splits = load_splits(made(path, label_names=["x", "y", "z"]))
    assert splits.task.label_names == ("x", "y", "z")
    assert read_back(splits)["text 2"] == "x"


def test_label_names_that_a_class_label_does_not_have(write, made):
    path = write("a.parquet", labelled([0, 1]), class_labels("z", "y"))
    with pytest.raises(DataError, match="names its classes itself, and w is not among them: z, y"):
        load_splits(made(path, label_names=["z", "w"]))


def test_integers_with_and_without_names(write, made):
    assert load_splits(made(write("a.jsonl", labelled([0, 1, 10, 2])))).task.label_names == ("0", "1", "2", "10")
    splits = load_splits(made(write("b.jsonl", labelled([1, 0])), label_names=["negative", "positive"]))
    assert splits.task.label_names == ("negative", "positive")
    assert read_back(splits)["text 0"] == "positive"


def test_a_numbered_class_label_takes_names(write, made):
    path = write("a.parquet", labelled([1, 0]), class_labels("0", "1"))
    splits = load_splits(made(path, label_names=["no", "yes"]))
    assert splits.task.label_names == ("no", "yes") and read_back(splits)["text 0"] == "yes"


def test_too_few_names(write, made):
    with pytest.raises(DataError, match="names 2 classes, but label 2 occurs; at least 3 names"):
        load_splits(made(write("a.jsonl", labelled([0, 1, 2])), label_names=["a", "b"]))


def test_a_name_given_twice(write, made):
    with pytest.raises(DataError, match="each name once, but a is there more than once"):
        load_splits(made(write("a.jsonl", labelled([0, 1])), label_names=["a", "a"]))


def test_booleans(write, made):
    path = write("a.jsonl", labelled([True, False]))
    assert load_splits(made(path)).task.label_names == ("False", "True")
    assert read_back(load_splits(made(path, label_names=["ham", "spam"])))["text 0"] == "spam"


def test_whole_floats_of_a_csv_with_gaps_are_integers(write, made):
    path = write("a.csv", labelled([0.0, 1.0, None]))
    splits = load_splits(made(path, drop_unlabeled=True, label_names=["no", "yes"]))
    assert read_back(splits) == {f"text {i}": ["no", "yes"][i % 3] for i in range(30) if i % 3 < 2}


def test_fractions_are_no_labels(write, made):
    with pytest.raises(DataError, match=r"whole number or a boolean; 'label' holds 0\.5"):
        load_splits(made(write("a.jsonl", labelled([0.5, 1.0]))))


def test_only_one_class(write, made):
    with pytest.raises(DataError, match=r"needs two classes, but 'label' in split 'train' of .* has \['a'\]"):
        load_splits(made(write("a.jsonl", labelled(["a"]))))


@pytest.mark.parametrize(
    ("values", "names"), [(["a", "b", None], ("a", "b")), (["a", "b", " "], ("a", "b")), ([0, 1, None], ("0", "1"))]
)
def test_unlabelled_examples(values, names, write, made):
    path = write("a.jsonl", labelled(values))
    message = r"10 examples of split 'train' have no label \(rows 2, 5, 8, 11, 14, …\).*drop_unlabeled: true"
    with pytest.raises(DataError, match=message):
        load_splits(made(path))
    splits = load_splits(made(path, drop_unlabeled=True))
    assert splits.task.label_names == names and len(read_back(splits)) == 20


def test_unlabelled_class_label(write, made):
    path = write("a.parquet", labelled([0, -1, 1]), class_labels("yes", "no"))
    with pytest.raises(DataError, match="10 examples of split 'train' have no label"):
        load_splits(made(path))
    assert len(read_back(load_splits(made(path, drop_unlabeled=True)))) == 20


def test_a_label_unseen_in_training(three_files, rows):
    test = [*rows(4, start=90), {"text": "x", "label": "plant"}, {"text": "y", "label": "plant"}]
    message = r"'test' has labels .* split 'train': 'plant' \(2\)\. .* animal, food, time\. .*training examples"
    with pytest.raises(DataError, match=message):
        load_splits(three_files(rows(12), rows(3, start=50), test))


def test_lists_of_text(write, made):
    splits = load_splits(made(write("a.jsonl", labelled([["b", "a"], ["c"], []])), problem_type=MULTI))
    assert splits.task.multi_label and splits.task.label_names == ("a", "b", "c")
    found = read_back(splits)
    assert found["text 0"] == ["a", "b"] and found["text 1"] == ["c"] and found["text 2"] == []
    assert sum(split.class_counts["a"] for split in splits.record.splits.values()) == 10
    assert "at random" in splits.record.splits["test"].name


def test_lists_of_integers_and_of_class_labels(write, made):
    given = labelled([[0, 2], [1]])
    assert load_splits(made(write("a.jsonl", given), problem_type=MULTI)).task.label_names == ("0", "1", "2")
    names = datasets.List(datasets.ClassLabel(names=["z", "y", "x"]))
    path = write("a.parquet", given, datasets.Features(text=datasets.Value("string"), label=names))
    splits = load_splits(made(path, problem_type=MULTI))
    assert splits.task.label_names == ("z", "y", "x") and read_back(splits)["text 0"] == ["z", "x"]


def test_minus_one_is_a_class_where_the_column_is_of_numbers(write, made):
    path = write("a.csv", labelled([-1, 0, 1]))
    for drop in (False, True):
        splits = load_splits(made(path, drop_unlabeled=drop))
        assert splits.task.label_names == ("-1", "0", "1") and len(read_back(splits)) == 30
    with pytest.raises(DataError, match="label -1 occurs. Leave label_names out"):
        load_splits(made(path, label_names=["no", "yes"]))


def test_words_for_nothing_are_labels(write, made):
    for name in ("a.csv", "a.jsonl", "d/train.csv"):
        path = write(name, labelled(["NA", "None", "null", "nan"]))
        config = made(path if not name.startswith("d") else path.removesuffix("/train.csv"))
        assert load_splits(config).task.label_names == ("NA", "None", "nan", "null")


@pytest.mark.parametrize("values", [[1, "a"], [True, 2], [True, "a"]])
def test_labels_of_two_kinds(values, write, made):
    with pytest.raises(
        DataError, match=r"all texts, all numbers or all booleans; 'label' holds .*Write them in one way"
    ):
        load_splits(made(write("a.jsonl", labelled(values))))


def test_dates_are_no_labels(write, made):
    with pytest.raises(DataError, match=r"whole number or a boolean; 'label' holds datetime"):
        load_splits(made(write("a.jsonl", labelled(["2020-01-01", "2020-01-02"]))))


def test_a_zero_or_one_for_every_class(write, made):
    path = write("a.jsonl", labelled([[1, 0, 1], [0, 1, 0], [0, 0, 0]]))
    splits = load_splits(made(path, problem_type=MULTI, label_names=["x", "y", "z"]))
    found = read_back(splits)
    assert [found[f"text {i}"] for i in range(3)] == [["x", "z"], ["y"], []]
    assert splits.record.notes == ["Labels: lists of column 'label', a 0 or 1 for each of 3 classes"]
    assert load_splits(made(path, problem_type=MULTI)).task.label_names == ("0", "1", "2")
    with pytest.raises(
        DataError, match="names 2 classes, but the lists of column 'label' have a 0 or 1 for each of 3"
    ):
        load_splits(made(path, problem_type=MULTI, label_names=["x", "y"]))


def test_two_flags_each(write, made):
    path = write("a.jsonl", labelled([[1, 0], [0, 1]]))
    found = read_back(load_splits(made(path, problem_type=MULTI, label_names=["x", "y"])))
    assert found["text 0"] == ["x"] and found["text 1"] == ["y"]


def test_a_row_of_flags_that_has_a_gap_has_no_label(write, made):
    path = write("a.jsonl", labelled([[1, 0, 1], [0, 1, 0], [0, None, 1]]))
    with pytest.raises(DataError, match="10 examples of split 'train' have no label"):
        load_splits(made(path, problem_type=MULTI))


@pytest.mark.parametrize("values", [[1, 0], [True, False], [1.0, 0.0]])
def test_columns_of_zero_and_one(values, write, made):
    yes, no = values
    rows = [{"text": f"text {i}", "toxic": [yes, no, no][i % 3], "insult": [yes, yes, no][i % 3]} for i in range(30)]
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        config = made(write(name, rows), problem_type=MULTI, label_column=["toxic", "insult"])
        splits = load_splits(config)
        found = read_back(splits)
        assert splits.task.label_names == ("toxic", "insult")
        assert [found[f"text {i}"] for i in range(3)] == [["toxic", "insult"], ["insult"], []]
        assert splits.record.notes == ["Labels: a 0 or 1 in each of the columns toxic, insult"]


def test_columns_of_something_else(write, made):
    rows = [{"text": f"text {i}", "a": i % 2, "b": i % 3} for i in range(12)]
    path = write("a.jsonl", rows)
    with pytest.raises(DataError, match=r"each holds a 0 or 1, but 'b' holds 2 \(row 2 of split 'train'"):
        load_splits(made(path, problem_type=MULTI, label_column=["a", "b"]))
    with pytest.raises(DataError, match="no column 'c'; it has text, a, b"):
        load_splits(made(path, problem_type=MULTI, label_column=["a", "c"]))
    rows[5]["a"] = None
    with pytest.raises(DataError, match=r"1 examples of split 'train' have no label \(rows 5\)"):
        load_splits(
            made(write("b.csv", [row | {"b": 0} for row in rows]), problem_type=MULTI, label_column=["a", "b"])
        )


def test_a_class_without_examples_is_named(write, made):
    rows = [{"text": f"text {i}", "a": i % 2, "b": 1, "never": 0} for i in range(12)]
    config = made(write("a.csv", rows), problem_type=MULTI, label_column=["a", "b", "never"])
    with pytest.raises(DataError, match="'never' has 0"):
        load_splits(config)


def test_separated_texts(write, made):
    path = write("a.csv", labelled(["b, a", "c", "a,"]))
    splits = load_splits(made(path, problem_type=MULTI, label_separator=","))
    found = read_back(splits)
    assert splits.task.label_names == ("a", "b", "c")
    assert [found[f"text {i}"] for i in range(3)] == [["a", "b"], ["c"], ["a"]]
    assert splits.record.notes == ["Labels: texts of column 'label' split at ','"]
    with pytest.raises(DataError, match="10 examples of split 'train' have no label"):
        load_splits(made(write("b.csv", labelled(["b, a", "c", None])), problem_type=MULTI, label_separator=","))


def test_separated_numbers(write, made):
    path = write("a.csv", labelled(["0;2", "1", "10"]))
    splits = load_splits(made(path, problem_type=MULTI, label_separator=";"))
    assert splits.task.label_names == ("0", "1", "2", "10")
    names = [f"n{i}" for i in range(11)]
    config = made(path, problem_type=MULTI, label_separator=";", label_names=names, min_examples_per_class=0)
    assert read_back(load_splits(config))["text 0"] == ["n0", "n2"]


def test_a_separator_is_for_texts(write, made):
    for name, values in (("a.jsonl", [["a"], ["b"]]), ("b.csv", ["['a', 'b']", "['b']"])):
        with pytest.raises(DataError, match="label_separator: for texts such as 'a,b', but column 'label' holds"):
            load_splits(made(write(name, labelled(values)), problem_type=MULTI, label_separator=","))


def test_a_class_that_looks_like_several(write, made):
    path = write("a.csv", labelled(["a", "b", "a,b"]))
    with pytest.warns(UserWarning, match="The class 'a,b' looks like a list of other classes.*label_separator"):
        splits = load_splits(made(path))
    assert splits.task.label_names == ("a", "a,b", "b") and "looks like a list" in splits.record.notes[0]


def test_equal_texts_under_two_labels_are_said(write, made):
    rows = labelled(["a", "b"]) + [{"text": "text 0", "label": "b"}]
    splits = load_splits(made(write("a.csv", rows)))
    assert splits.record.notes == ["1 examples of train occur again under another label (rows 0 and 30: a and b)"]
    assert sum(split.rows for split in splits.record.splits.values()) == 31


def test_lists_and_single_labels_are_told_apart(write, made):
    with pytest.raises(DataError, match="holds lists of labels .*multi_label_classification"):
        load_splits(made(write("a.jsonl", labelled([["a"], ["b"]]))))
    with pytest.raises(DataError, match=r"holds single labels \('a'\).*data\.label_separator"):
        load_splits(made(write("b.jsonl", labelled(["a", "b"])), problem_type=MULTI))


def task(*names, modality="text", problem_type="single_label_classification"):
    return Task(modality=modality, label_names=names, problem_type=problem_type)


def test_one_split_for_a_model_is_matched_by_name(write, made):
    data = load_split(made(write("a.csv", labelled(["b", "a"]))), "train", task("c", "b", "a"))
    assert data.column_names == ["text", "label"] and data["label"][:3] == [1, 2, 1]


def test_one_split_with_numbers_is_matched_by_the_names_given_for_them(write, made):
    config = made(write("a.jsonl", labelled([0, 1])), label_names=["negative", "positive"])
    assert load_split(config, "train", task("positive", "negative"))["label"][:2] == [1, 0]


def test_one_split_with_labels_the_model_lacks(write, made):
    config = made(write("a.csv", labelled(["b", "a", "d"])))
    with pytest.raises(DataError, match=r"'train' has labels .* of the model: 'd' \(10\)\. The classes are a, b\."):
        load_split(config, "train", task("a", "b"))
    with pytest.raises(DataError, match=r"'0' \(15\), '1' \(15\).*name the numbers in data\.label_names"):
        load_split(made(write("b.jsonl", labelled([0, 1]))), "train", task("a", "b"))


def test_one_split_that_is_not_there(write, made):
    config = made(write("d/train.csv", labelled(["b", "a"])).removesuffix("/train.csv"))
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        load_split(config, "test", task("a", "b"))


def test_a_lone_file_is_the_split_that_is_asked_for(write, made):
    assert len(load_split(made(write("a.csv", labelled(["b", "a"]))), "test", task("a", "b"))) == 30


def test_one_split_for_a_model_of_another_kind(write, made):
    config = made(write("a.csv", labelled(["b", "a"])))
    with pytest.raises(DataError, match="model is for image input"):
        load_split(config, "train", task("a", "b", modality="image"))
    with pytest.raises(DataError, match="with multi_label_classification"):
        load_split(config, "train", task("a", "b", problem_type=MULTI))


def test_one_split_without_examples(write, made):
    config = made(write("a.jsonl", labelled([None, " "], 4)), drop_unlabeled=True)
    with pytest.raises(DataError, match="Split 'train' of .* is empty"):
        load_split(config, "train", task("a", "b"))


def test_numbers_with_leading_zeros_are_names(made, write):
    path = write("a.csv", labelled(["01;10", "1;02", "007"] * 8))
    splits = load_splits(made(path, problem_type=MULTI, label_separator=";", min_examples_per_class=0))
    assert sorted(splits.task.label_names) == ["007", "01", "02", "1", "10"]
