"""A data set at a revision -> mapped, disjoint splits and the task they make."""

from __future__ import annotations

from dataclasses import dataclass

import datasets

from hf_fsl.config import DataConfig
from hf_fsl.data.columns import drop_unlabelled, label_names, map_columns, map_labels
from hf_fsl.data.errors import DataError
from hf_fsl.data.overlap import resolve_overlap
from hf_fsl.data.sources import read_splits, source_facts
from hf_fsl.data.splits import class_counts, require_examples, set_aside, subset
from hf_fsl.records import DataRecord, SplitRecord
from hf_fsl.tasks import Modality, Task


@dataclass(frozen=True)
class Splits:
    """Mapped splits: columns ``text`` (and ``text_pair``) or ``image``, and ``label`` as indices of the task."""

    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    task: Task
    record: DataRecord


def load_splits(config: DataConfig) -> Splits:
    """Loads, maps, splits and checks a data set.

    Raises:
        DataError: whatever makes the data unusable; the message names what was found and the way out.
    """
    source = read_splits(config)
    named = {"train": config.train_split, "validation": config.validation_split, "test": config.test_split}
    for role, name in named.items():
        if name is not None and name not in source:
            way_out = "" if role == "train" else f", or set it to null for a stratified share of {config.train_split}"
            raise DataError(
                f"data.{role}_split: {config.path} has no split {name!r}; it has {', '.join(source)}. Name one of "
                f"these{way_out}."
            )
    mapped = {role: map_columns(source[name], name, config) for role, name in named.items() if name is not None}
    if config.drop_unlabelled:
        mapped = {role: drop_unlabelled(data, config) for role, data in mapped.items()}
    names = label_names(mapped["train"], config)
    splits = {role: map_labels(data, named[role] or role, names, config) for role, data in mapped.items()}
    for role, fraction in (("test", config.test_fraction), ("validation", config.validation_fraction)):
        if role not in splits:
            splits["train"], splits[role] = set_aside(splits["train"], fraction, config.split_seed)
    splits = {role: splits[role] for role in ("train", "validation", "test")}
    splits, overlap, dropped = resolve_overlap(splits, config.on_overlap)
    limits = {
        "train": config.max_train_samples,
        "validation": config.max_eval_samples,
        "test": config.max_eval_samples,
    }
    splits = {role: subset(data, limits[role], config.split_seed) for role, data in splits.items()}
    counts = {role: class_counts(list(data["label"]), names) for role, data in splits.items()}
    require_examples(counts["train"], config.min_examples_per_class)
    for role, data in splits.items():
        if len(data) == 0:
            raise DataError(f"The {role} split of {config.path} is empty.")
    revision, license_name = source_facts(config)
    record = DataRecord(
        path=config.path,
        name=config.name,
        revision=revision,
        license=license_name,
        splits={role: SplitRecord(name=named[role] or _set_aside_name(config, role), rows=len(data),
                                  class_counts=counts[role]) for role, data in splits.items()},
        on_overlap=config.on_overlap,
        overlap=overlap,
        dropped=dropped,
    )  # fmt: skip
    task = Task(modality=modality(config), label_names=tuple(names), problem_type=config.problem_type)
    return Splits(splits["train"], splits["validation"], splits["test"], task, record)


def load_split(config: DataConfig, split: str, task: Task) -> datasets.Dataset:
    """One split, its labels mapped by name to those of a model's task.

    Raises:
        DataError: see :func:`load_splits`; also labels that the task does not have.
    """
    source = read_splits(config)
    if split not in source:
        raise DataError(f"{config.path} has no split {split!r}; it has {', '.join(source)}.")
    data = map_columns(source[split], split, config)
    if config.drop_unlabelled:
        data = drop_unlabelled(data, config)
    return map_labels(data, split, task.label_names, config)


def modality(config: DataConfig) -> Modality:
    """What the input columns make of the task."""
    if config.image_column is not None:
        return "image"
    return "text" if config.text_pair_column is None else "text-pair"


def _set_aside_name(config: DataConfig, role: str) -> str:
    fraction = config.test_fraction if role == "test" else config.validation_fraction
    return f"{fraction:.0%} of {config.train_split}, stratified, seed {config.split_seed}"
