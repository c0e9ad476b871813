"""A data set at a revision -> mapped, disjoint splits and the task they make."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass

import datasets

from hf_fsl.config.sections import DataConfig
from hf_fsl.core.label_values import contradictions
from hf_fsl.core.records import DataRecord, SplitRecord
from hf_fsl.core.task import Modality, Task
from hf_fsl.data.columns import map_columns
from hf_fsl.data.errors import DataError, listed
from hf_fsl.data.labels import drop_unlabeled, label_names, looks_like_several, map_labels, several_labels
from hf_fsl.data.overlap import example_keys, find_overlap
from hf_fsl.data.sources import Source, is_lone_file, read_source
from hf_fsl.data.splits import class_counts, require_examples, set_aside, subset

ROLES = ("train", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """Mapped splits: columns ``text`` (and ``text_pair``) or ``image``, and ``label`` as indices of the task.

    Images are decoded when they are read, in whatever mode the file has.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    task: Task
    record: DataRecord


def load_splits(config: DataConfig, *, zero_shot: bool = False, all_labels: bool = False) -> Splits:
    """Loads, maps, splits and checks a data set.

    Args:
        config: source, columns and splits.
        zero_shot: classes need no training examples; any split may have classes that the others do not have.
        all_labels: for what chooses nothing on the validation split: none is set aside, and it is empty unless the
            data has one of its own.

    Returns:
        Disjoint splits whose columns are ``label`` and ``text``, ``text_pair`` or ``image``, and the record of them.

    Raises:
        DataError: whatever makes the data unusable; the message names what was found and the way out.
    """
    source = read_source(config)
    named = {"train": config.train_split, "validation": config.validation_split, "test": config.test_split}
    aside = []
    if list(source.splits) == [config.train_split]:  # the default names are those of a source that has such splits
        aside = [role for role in ("validation", "test") if named[role] == role]
        named |= dict.fromkeys(aside)
    for role, name in named.items():
        if name is not None:
            _require_split(source, name, config, role)
    splits, notes = _mapped(source, {role: name for role, name in named.items() if name is not None}, config)
    if aside:
        shown = [role for role in aside if not (all_labels and role == "validation")]
        notes += [f"{', '.join(shown)}: set aside from {config.train_split!r}, the only split"] if shown else []
    names = label_names(list(splits.values()) if zero_shot else [splits["train"]], config)
    alike = looks_like_several(names) if config.problem_type == "single_label_classification" else None
    if alike is not None:
        text = (
            f"The class {alike!r} looks like a list of other classes, and is read as a class of its own. If examples "
            "have several labels, set data.problem_type: multi_label_classification and data.label_separator."
        )
        notes.append(text)
        warnings.warn(text, stacklevel=2)
    splits = {role: map_labels(data, named[role] or role, names, config) for role, data in splits.items()}
    keys = {role: example_keys(data, named[role] or role) for role, data in splits.items()}
    notes += _contradicting(splits, keys, names)
    unused = "validation" if all_labels and "validation" not in splits else None
    _set_aside(splits, keys, config, unused)
    splits = {role: splits[role] for role in ROLES}

    overlap = find_overlap(splits, keys, config.on_overlap)
    if overlap.dropped:
        splits = {role: data.select(overlap.kept[role]) for role, data in splits.items()}
    for role, data in splits.items():
        if len(data) == 0 and role != unused:
            reason = f": all its {len(keys[role])} examples occur in a later split too" if keys[role] else ""
            raise DataError(f"The {role} split of {config.path} is empty{reason}. Name another split or add examples.")
    least, seed = 0 if zero_shot else config.min_examples_per_class, config.split_seed
    require_examples(class_counts(splits["train"]["label"][:], names), least)

    limits = {
        "train": config.max_train_samples,
        "validation": config.max_eval_samples,
        "test": config.max_eval_samples,
    }
    splits = {role: subset(splits[role], limits[role], seed, least if role == "train" else 1) for role in ROLES}
    counts = {role: class_counts(data["label"][:], names) for role, data in splits.items()}
    require_examples(counts["train"], least, config.max_train_samples)
    record = DataRecord(
        path=config.path,
        name=source.name,
        revision=source.revision,
        license=source.license,
        splits={
            role: SplitRecord(name=named[role] or _made_name(role, config), rows=len(data), class_counts=counts[role])
            for role, data in splits.items()
            if role != unused
        },
        on_overlap=config.on_overlap,
        overlap=overlap.counts,
        dropped=overlap.dropped,
        notes=notes,
    )
    task = Task(modality=modality(config), label_names=tuple(names), problem_type=config.problem_type)
    return Splits(splits["train"], splits["validation"], splits["test"], task, record)


def load_split(config: DataConfig, split: str, task: Task) -> datasets.Dataset:
    """One split, its labels mapped by name to those of a model's task.

    Args:
        config: the source and its columns; its split names, sizes and overlap policy play no part here.
        split: name in the source.

    Raises:
        DataError: see :func:`load_splits`; also labels that the task does not have.
    """
    if modality(config) != task.modality or config.problem_type != task.problem_type:
        raise DataError(
            f"The model is for {task.modality} input with {task.problem_type}; data names columns for "
            f"{modality(config)} input with {config.problem_type}. Name the columns that the model takes."
        )
    source = read_source(dataclasses.replace(config, train_split=split) if is_lone_file(config) else config)
    _require_split(source, split, config)
    data = _mapped(source, {split: split}, config)[0][split]
    if len(data) == 0:
        raise DataError(f"Split {split!r} of {config.path} is empty. Name another one: {listed(list(source.splits))}.")
    return map_labels(data, split, task.label_names, config, of_model=True)


def modality(config: DataConfig) -> Modality:
    """What the input columns make of the task."""
    if config.image_column is not None:
        return "image"
    return "text" if config.text_pair_column is None else "text-pair"


def _require_split(source: Source, name: str, config: DataConfig, role: str | None = None) -> None:
    if name in source.splits:
        return
    setting = f"data.{role}_split: " if role else ""
    fraction = f", or set it to null for a stratified share of {config.train_split!r}"
    raise DataError(
        f"{setting}{config.path} has no split {name!r}; it has {listed(list(source.splits))}. "
        f"Name one of these{fraction if role in ('validation', 'test') else ''}."
    )


def _mapped(
    source: Source, named: dict[str, str], config: DataConfig
) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """The named splits with the columns of the task, and what is to be said of how they were read."""
    notes = []
    splits = {role: map_columns(source.splits[name], name, config) for role, name in named.items()}
    empty = {role: len(source.splits[name]) - len(splits[role]) for role, name in named.items()}
    notes += [f"{count} examples of {role} without a text left out" for role, count in empty.items() if count]
    if config.problem_type == "multi_label_classification":
        splits, how = several_labels(splits, config)
        notes.append(f"Labels: {how}")
    if config.drop_unlabeled:
        before = {role: len(data) for role, data in splits.items()}
        splits = {role: drop_unlabeled(data, config) for role, data in splits.items()}
        dropped = {role: count - len(splits[role]) for role, count in before.items()}
        notes += [
            f"{count} examples of {role} without a label were left out" for role, count in dropped.items() if count
        ]
    return splits, notes


def _contradicting(splits: dict[str, datasets.Dataset], keys: dict[str, list[str]], names: list[str]) -> list[str]:
    """What is to be said of equal examples with different labels: data of people has some, and may keep them."""
    notes = []
    for role, data in splits.items():
        labels = data["label"][:]
        found = contradictions(keys[role], labels)
        if found:
            one, other = found[0]
            shown = " and ".join(_label_text(labels[row], names) for row in (one, other))
            notes.append(
                f"{len(found)} examples of {role} occur again under another label (rows {one} and {other}: {shown})"
            )
    return notes


def _label_text(label: int | list[int], names: list[str]) -> str:
    return ", ".join(names[number] for number in label) if isinstance(label, list) else names[label]


def _set_aside(
    splits: dict[str, datasets.Dataset], keys: dict[str, list[str]], config: DataConfig, unused: str | None
) -> None:
    """Adds the splits that the source does not have, taken from train. Fractions are of the whole train split.

    Args:
        unused: the role of one that stays empty.
    """
    remaining = 1.0
    for role, fraction in (("test", config.test_fraction), ("validation", config.validation_fraction)):
        if role in splits:
            continue
        if role == unused:
            splits[role], keys[role] = splits["train"].select([]), []
            continue
        data, own = splits["train"], keys["train"]
        stay, aside = set_aside(data["label"][:], own, fraction / remaining, config.split_seed)
        for part, rows in (("train", stay), (role, aside)):
            splits[part] = data.select(rows)
            keys[part] = [own[row] for row in rows]
        remaining -= fraction


def _made_name(role: str, config: DataConfig) -> str:
    fraction = config.test_fraction if role == "test" else config.validation_fraction
    how = "at random" if config.problem_type == "multi_label_classification" else "stratified"
    return f"{fraction * 100:g}% of {config.train_split}, {how}, seed {config.split_seed}"
