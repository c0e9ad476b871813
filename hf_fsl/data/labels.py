"""Labels of every kind (ClassLabel, text, integers, booleans, several of them) -> indices into the class names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets

from hf_fsl.config.sections import DataConfig
from hf_fsl.core.label_values import is_label, is_missing
from hf_fsl.data.columns import row_list
from hf_fsl.data.errors import DataError, listed

_SEPARATORS = (",", ";", "|", "/", "\t")


def several_labels(splits: dict[str, datasets.Dataset], config: DataConfig) -> tuple[dict[str, datasets.Dataset], str]:
    """The splits of a multi-label task with the labels of each example as one list, and how they were read.

    Args:
        splits: name -> its rows, whose ``label`` is a list of labels, a list with a 0 or 1 for every class, or a text
            of labels with ``label_separator`` between them. Read together, for some rows alone could be both lists.

    Raises:
        DataError: the column holds single labels, or what is neither.
    """
    column = f"column {config.label_column!r}"
    if isinstance(config.label_column, list):
        return splits, f"a 0 or 1 in each of the columns {listed(config.label_column)}"
    rows = {split: _named(data) for split, data in splits.items()}
    every = [value for values in rows.values() for value in values if not is_missing(value)]
    if config.label_separator is not None:
        separator = config.label_separator
        wrong = [value for value in every if not is_label(value) or str(value).lstrip().startswith("[")]
        if wrong:
            raise DataError(
                f"data.label_separator: for texts such as 'a{separator}b', but {column} holds {wrong[0]!r}. Leave it "
                "out where labels are lists; write lists to a jsonl or parquet file, where they stay lists."
            )
        read: dict[str, list[Any]] = {
            split: [None if is_missing(value) else _parts(value, separator) for value in values]
            for split, values in rows.items()
        }
        # 007 is a name: as a number it would be another one.
        numbers = all(
            part.isdecimal() and str(int(part)) == part for value in every for part in _parts(value, separator)
        )
        if numbers:
            read = {split: [row and [int(part) for part in row] for row in parts] for split, parts in read.items()}
        feature, said = datasets.Value("int64" if numbers else "string"), f"texts of {column} split at {separator!r}"
    elif not any(_own_names(data) for data in splits.values()) and _are_flags(every):
        if config.label_names is not None and len(config.label_names) != len(every[0]):
            raise DataError(
                f"data.label_names names {len(config.label_names)} classes, but the lists of {column} have a 0 or 1 "
                f"for each of {len(every[0])}. Name all of them."
            )
        read = {split: [_classes_set(row) for row in values] for split, values in rows.items()}
        feature, said = datasets.Value("int64"), f"lists of {column}, a 0 or 1 for each of {len(every[0])} classes"
    else:
        single = next((value for value in every if not isinstance(value, list)), None)
        if single is not None:
            raise DataError(
                f"data.problem_type is multi_label_classification, but {column} holds single labels ({single!r}). "
                "Give lists, set data.label_separator to what separates the labels of a text, name a column of 0 or 1 "
                "for every class in data.label_column, or set single_label_classification."
            )
        return splits, f"lists of {column}"
    target = datasets.List(feature)
    return {
        split: data.remove_columns("label").add_column("label", read[split], feature=target)
        for split, data in splits.items()
    }, said


def looks_like_several(names: Sequence[str]) -> str | None:
    """A class whose name is a list of other classes, ``a,b`` beside ``a`` and ``b``; None where there is none."""
    known = set(names)
    for name in names:
        for separator in _SEPARATORS:
            parts = _parts(name, separator)
            if len(parts) > 1 and known.issuperset(parts):
                return name
    return None


def _named(data: datasets.Dataset) -> list[Any]:
    """The labels of a column as they are; of single class numbers, the names."""
    feature, values = data.features["label"], list(data["label"][:])
    if not isinstance(feature, datasets.ClassLabel):
        return values
    return [None if is_missing(value) or value < 0 else feature.names[value] for value in values]


def _parts(value: Any, separator: str) -> list[str]:
    text = str(int(value) if isinstance(value, float) else value)
    return [part.strip() for part in text.split(separator) if part.strip()]


def _are_flags(rows: Sequence[Any]) -> bool:
    """Whether these are lists with a 0 or 1 for every class; those of class numbers are in order, each once."""
    return (
        bool(rows)
        and all(isinstance(row, list) and len(row) == len(rows[0]) > 1 for row in rows)
        and all(value in (0, 1) for row in rows for value in row if not is_missing(value))
        and any(row != sorted(set(row)) for row in rows if None not in row)
    )


def _classes_set(flags: Sequence[Any] | None) -> list[int] | None:
    if flags is None or any(map(is_missing, flags)):
        return None
    return [number for number, flag in enumerate(flags) if flag]


def label_names(splits: Sequence[datasets.Dataset], config: DataConfig) -> list[str]:
    """The names of the classes: from the column's type, from ``label_names``, or those that occur in the splits.

    ``label_names`` names the integers 0, 1, …; for labels that have names it puts them in order, and may leave out
    classes that do not occur.

    Raises:
        DataError: ``label_names`` does not fit the labels, or there is only one class.
    """
    given = config.label_names
    if given is not None and len(set(given)) < len(given):
        twice = [name for name, count in Counter(given).items() if count > 1]
        raise DataError(f"data.label_names: each name once, but {listed(twice)} is there more than once.")
    own = _own_names(splits[0])
    strangers = [name for name in given or [] if own is not None and name not in own]
    if strangers:
        raise DataError(
            f"data.label_names: column {config.label_column!r} names its classes itself, and {listed(strangers)} is "
            f"not among them: {listed(own or [])}. Use these names, or leave label_names out."
        )
    if own is not None:
        names = own if given is None else list(given)
    else:
        lists = [row for data in splits for row in _label_lists(data, config)]
        values = [value for row in lists for value in row if value is not None]
        kinds = {_kind(value): value for value in values}
        if len(kinds) > 1:
            shown = listed([f"{value!r} ({kind})" for kind, value in kinds.items()])
            raise DataError(
                f"data.label_column: labels are all texts, all numbers or all booleans; {config.label_column!r} holds "
                f"{shown}. Write them in one way."
            )
        occurring = [_name(value, None, config) for value in sorted(set(values))]
        names = occurring if given is None else list(given)
    if len(names) < 2 and not _multi(config):
        raise DataError(
            f"data.label_column: a classifier needs two classes, but {config.label_column!r} in split "
            f"{config.train_split!r} of {config.path} has {names or 'no labels'}. Name another column or split."
        )
    return names


def map_labels(
    data: datasets.Dataset, split: str, names: Sequence[str], config: DataConfig, *, of_model: bool = False
) -> datasets.Dataset:
    """Labels -> indices into ``names``: one an example, or a sorted list of them for multi-label tasks.

    Args:
        of_model: the names are those of a trained model; only the wording of the error depends on it.

    Raises:
        DataError: labels are missing, occur twice in one list, or are not among ``names``.
    """
    own = _own_names(data)
    index = {name: position for position, name in enumerate(names)}
    mapped: list[list[int]] = []
    missing: list[int] = []
    unknown: Counter[str] = Counter()
    for row, values in enumerate(_label_lists(data, config)):
        if None in values:
            missing.append(row)
            continue
        found = [_name(value, own, config) for value in values]
        if len(set(found)) < len(found):
            raise DataError(
                f"data.label_column: row {row} of split {split!r} lists a label twice ({values}). List the classes "
                "that apply, each once, or in every row a 0 or 1 for each class."
            )
        unknown.update(name for name in found if name not in index)
        mapped.append(sorted(index[name] for name in found if name in index))
    if missing:
        raise DataError(
            f"data.label_column: {len(missing)} examples of split {split!r} have no label (rows {row_list(missing)}). "
            "Set data.drop_unlabeled: true to leave them out, or give them labels."
        )
    if unknown:
        raise _unknown_labels(unknown, split, names, config, of_model, numbered=own is None)
    rest, target = data.remove_columns("label"), datasets.Value("int64")
    if _multi(config):
        return rest.add_column("label", mapped, feature=datasets.List(target))
    return rest.add_column("label", [row[0] for row in mapped], feature=target)


def drop_unlabeled(data: datasets.Dataset, config: DataConfig) -> datasets.Dataset:
    """Without the examples whose label is missing."""
    kept = [row for row, values in enumerate(_label_lists(data, config)) if None not in values]
    return data.select(kept) if len(kept) < len(data) else data


def _unknown_labels(
    unknown: Counter[str], split: str, names: Sequence[str], config: DataConfig, of_model: bool, numbered: bool
) -> DataError:
    counted = listed([f"{name!r} ({count})" for name, count in unknown.most_common()])
    classes = (
        "the model" if of_model else "data.label_names" if config.label_names else f"split {config.train_split!r}"
    )
    ways = ["remove these examples"]
    if numbered and config.label_names is None and all(name.isdecimal() for name in unknown):
        ways.append("name the numbers in data.label_names (hf-fsl evaluate: --label-names)")
    elif not of_model:
        ways.append("add them to data.label_names" if config.label_names else "give training examples of them")
    return DataError(
        f"Split {split!r} has labels that are not among the classes of {classes}: {counted}. "
        f"The classes are {listed(names)}. To mend it, {', or '.join(ways)}."
    )


def _label_lists(data: datasets.Dataset, config: DataConfig) -> list[list[Any]]:
    """The labels of each example, one for single-label tasks; ``None`` among them: they are missing."""
    numbers = isinstance(_item_feature(data), datasets.ClassLabel)
    lists = []
    for row, value in enumerate(data["label"][:]):
        many = isinstance(value, list)
        if many and not _multi(config):
            raise DataError(
                f"data.label_column: {config.label_column!r} holds lists of labels (row {row}: {value!r}). "
                "Set data.problem_type: multi_label_classification, or name another column."
            )
        lists.append([_label(one, numbers, config) for one in (value if many else [value])])
    return lists


def _label(value: Any, number_of_class: bool, config: DataConfig) -> str | int | None:
    """Whole floats (a csv with gaps) as integers, a missing label as None."""
    if is_missing(value) or (number_of_class and value < 0):
        return None
    if not is_label(value):
        raise DataError(
            f"data.label_column: a label is text, a whole number or a boolean; {config.label_column!r} holds "
            f"{value!r}. Name a column of classes."
        )
    return int(value) if isinstance(value, float) else value


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "boolean" if isinstance(value, bool) else "number"


def _name(value: Any, own: Sequence[str] | None, config: DataConfig) -> str:
    if isinstance(value, str):
        return value
    if own is not None:
        return own[value]
    if config.label_names is None:
        return str(value)
    if value < 0:
        raise DataError(
            f"data.label_names names the labels 0, 1, …, but label {value} occurs. Leave label_names out, or number "
            "the classes from 0; where it means that there is no label, leave the cell empty."
        )
    if value >= len(config.label_names):
        raise DataError(
            f"data.label_names names {len(config.label_names)} classes, but label {value} occurs; at least "
            f"{value + 1} names are needed."
        )
    return config.label_names[value]


def _own_names(data: datasets.Dataset) -> list[str] | None:
    """The names that a ClassLabel column gives its classes, unless they are but the numbers again."""
    feature = _item_feature(data)
    if not isinstance(feature, datasets.ClassLabel) or feature.names == [str(i) for i in range(len(feature.names))]:
        return None
    return list(feature.names)


def _item_feature(data: datasets.Dataset) -> Any:
    feature = data.features["label"]
    return feature.feature if isinstance(feature, (datasets.List, datasets.LargeList)) else feature


def _multi(config: DataConfig) -> bool:
    return config.problem_type == "multi_label_classification"
