"""A data set as episodes need it: what may be support, what may be query, and what other classes there are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from hf_fsl.config.few_shot import FewShotRecipeConfig
from hf_fsl.data.errors import DataError
from hf_fsl.data.loading import Splits, load_splits
from hf_fsl.models.backbones.inputs import input_keys


@dataclass(frozen=True)
class Examples:
    """Inputs with their classes ``(N,)``, rows of ``names``, and what each shows ``(N,)``."""

    inputs: list[Any]
    labels: np.ndarray
    ids: list[str]

    def __len__(self) -> int:
        return len(self.inputs)

    def part(self, rows: np.ndarray) -> Examples:
        """Some of the examples."""
        return Examples([self.inputs[row] for row in rows], self.labels[rows], [self.ids[row] for row in rows])

    def __add__(self, other: Examples) -> Examples:
        labels = np.concatenate([self.labels, other.labels])
        return Examples(self.inputs + other.inputs, labels, self.ids + other.ids)


@dataclass(frozen=True)
class Pools:
    """Where supports and queries come from; ``base`` has classes that are in no episode.

    With ``same`` both come from one pool, and an episode takes different examples for the two.
    """

    splits: Splits
    names: list[str]
    """Of the classes in episodes; labels are rows of it."""
    support: Examples
    query: Examples
    base: Examples
    base_names: list[str]
    same: bool


def load_pools(config: FewShotRecipeConfig) -> Pools:
    """Loads the data of a run.

    Raises:
        DataError: what ``load_splits`` raises; also classes that the test split does not have, or no base class for
            meta-training.
    """
    asked = config.episodes
    seen = asked.support == "train" and asked.classes is None
    splits = load_splits(config.data, zero_shot=not seen, all_labels=True)
    all_names, test = splits.task.label_names, _examples(splits.test)
    present = [name for number, name in enumerate(all_names) if (test.labels == number).any()]
    names = asked.classes or present
    absent = sorted(set(names) - set(present))
    if absent:
        raise DataError(
            f"episodes.classes: the test split of {config.data.path} has no example of {', '.join(absent)}; it has "
            f"{', '.join(present)}."
        )
    train = _examples(splits.train)
    base_names = [
        name for number, name in enumerate(all_names) if name not in names and (train.labels == number).any()
    ]
    if config.meta_training and len(base_names) < 2:
        raise DataError(
            f"meta_training learns from classes that are in no episode, and the training split of {config.data.path} "
            f"has {len(base_names)} such. Name the classes of the episodes in episodes.classes, or leave it out."
        )
    query = test
    if asked.query_name is not None:
        other = dataclasses.replace(config.data, name=asked.query_name, label_names=list(all_names))
        query = _examples(load_splits(other, zero_shot=True).test)
    support = _of_classes(test if asked.support == "test" else train, all_names, names)
    return Pools(
        splits=splits,
        names=list(names),
        support=support,
        query=_of_classes(query, all_names, names),
        base=_of_classes(train, all_names, base_names),
        base_names=base_names,
        same=asked.support == "test" and asked.query_name is None,
    )


def _examples(split: datasets.Dataset) -> Examples:
    column = "image" if "image" in split.column_names else "text"
    inputs = list(split[column])
    ids = [str(item) for item in split["item"]] if "item" in split.column_names else input_keys(inputs)
    return Examples(inputs, np.asarray(split["label"][:]), ids)


def _of_classes(examples: Examples, all_names: tuple[str, ...], names: list[str]) -> Examples:
    """The examples of some classes, their labels as rows of ``names``; an id is one of its class."""
    number = {all_names.index(name): row for row, name in enumerate(names)}
    rows = np.array([row for row, label in enumerate(examples.labels) if int(label) in number], dtype=int)
    kept = examples.part(rows)
    labels = np.array([number[int(label)] for label in kept.labels], dtype=int)
    # Noisy data has one text under two classes: it is one thing within a class, not across them.
    return Examples(kept.inputs, labels, [f"{label}/{one}" for label, one in zip(labels, kept.ids, strict=True)])


def fitting_and_test(pools: Pools, config: FewShotRecipeConfig) -> tuple[Examples, Examples]:
    """The support set that the published classifier is fitted on, and what it is tested on, with nothing in common.

    Raises:
        DataError: a class with fewer examples than ``classifier.shots``, or nothing left to test on.
    """
    shots = config.classifier.shots
    if shots is None and config.episodes.support == "test":
        shots = max(config.episodes.k_shot)
    support = pools.support
    if shots is not None:
        counts = np.bincount(support.labels, minlength=len(pools.names))
        short = [f"{name!r} has {count}" for name, count in zip(pools.names, counts, strict=True) if count < shots]
        if short:
            raise DataError(
                f"classifier.shots={shots} needs as many examples of every class; {', '.join(short)}. Lower it."
            )
        order = np.random.default_rng(config.episodes.seed).permutation(len(support))
        rows = [order[support.labels[order] == number][:shots] for number in range(len(pools.names))]
        support = support.part(np.sort(np.concatenate(rows)))
    taken = set(support.ids)
    test = pools.query.part(np.array([row for row, one in enumerate(pools.query.ids) if one not in taken], dtype=int))
    if not len(test):
        raise DataError("Every query is in the support set too; nothing is left to test on. Lower classifier.shots.")
    return support, test
