"""Labels of every kind (ClassLabel, text, integers, booleans, lists of them) -> indices into the class names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets

from hf_fsl.config import DataConfig
from hf_fsl.data.columns import row_list
from hf_fsl.data.errors import DataError, listed


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
        values = {value for row in lists for value in row if not _missing(value)}
        occurring = [_name(value, None, config) for value in sorted(values)]
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
        if any(map(_missing, values)):
            missing.append(row)
            continue
        found = [_name(value, own, config) for value in values]
        if len(set(found)) < len(found):
            raise DataError(
                f"data.label_column: row {row} of split {split!r} lists a label twice ({values}). List the classes "
                "that apply, each once; a 0 or 1 for every class is not read."
            )
        unknown.update(name for name in found if name not in index)
        mapped.append(sorted(index[name] for name in found if name in index))
    if missing:
        raise DataError(
            f"data.label_column: {len(missing)} examples of split {split!r} have no label (rows {row_list(missing)}). "
            "Set data.drop_unlabelled: true to leave them out, or give them labels."
        )
    if unknown:
        raise _unknown_labels(unknown, split, names, config, of_model, numbered=own is None)
    rest, target = data.remove_columns("label"), datasets.Value("int64")
    if _multi(config):
        return rest.add_column("label", mapped, feature=datasets.List(target))
    return rest.add_column("label", [row[0] for row in mapped], feature=target)


def drop_unlabelled(data: datasets.Dataset, config: DataConfig) -> datasets.Dataset:
    """Without the examples whose label is missing or negative (SNLI's -1)."""
    kept = [row for row, values in enumerate(_label_lists(data, config)) if not any(map(_missing, values))]
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
    """The labels of each example, one for single-label tasks; whole floats (a csv with gaps) as integers."""
    lists = []
    for row, value in enumerate(data["label"][:]):
        many = isinstance(value, list)
        if many and not _multi(config):
            raise DataError(
                f"data.label_column: {config.label_column!r} holds lists of labels (row {row}: {value!r}). "
                "Set data.problem_type: multi_label_classification, or name another column."
            )
        if _multi(config) and not many and value is not None:
            raise DataError(
                f"data.problem_type is multi_label_classification, but column {config.label_column!r} holds single "
                f"labels (row {row}: {value!r}). Give lists, or set single_label_classification."
            )
        lists.append([_whole(one, config) for one in (value if many else [value])])
    return lists


def _whole(value: Any, config: DataConfig) -> Any:
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer():
            return int(value)
    raise DataError(
        f"data.label_column: a label is text, a whole number or a boolean; {config.label_column!r} holds {value!r}. "
        "Name a column of classes."
    )


def _missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or value < 0


def _name(value: Any, own: Sequence[str] | None, config: DataConfig) -> str:
    if isinstance(value, str):
        return value
    if own is not None:
        return own[value]
    if config.label_names is None:
        return str(value)
    if value >= len(config.label_names):
        raise DataError(
            f"data.label_names names {len(config.label_names)} classes, but label {value} occurs; at least "
            f"{value + 1} names are needed."
        )
    return config.label_names[value]


def _own_names(data: datasets.Dataset) -> list[str] | None:
    """The names that a ClassLabel column gives its classes, unless they are but the numbers again."""
    feature = data.features["label"]
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        feature = feature.feature
    if not isinstance(feature, datasets.ClassLabel) or feature.names == [str(i) for i in range(len(feature.names))]:
        return None
    return list(feature.names)


def _multi(config: DataConfig) -> bool:
    return config.problem_type == "multi_label_classification"
