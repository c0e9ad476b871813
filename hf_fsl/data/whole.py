"""A training split without a validation split set aside from it."""

from __future__ import annotations

import dataclasses

import datasets

from hf_fsl.config import DataConfig
from hf_fsl.data.loading import Splits
from hf_fsl.data.splits import class_counts, subset


def with_all_labels(splits: Splits, config: DataConfig) -> Splits:
    """Splits whose training examples are all that there are, for what chooses nothing on the validation split.

    One that the data has of its own, under the name that ``validation_split`` gives, stays aside.
    """
    train, aside = splits.record.splits["train"], splits.record.splits["validation"]
    if aside.name == config.validation_split:
        return splits
    whole = datasets.concatenate_datasets([splits.train, splits.validation])
    whole = subset(whole, config.max_train_samples, config.split_seed, config.min_examples_per_class)
    counts = class_counts(whole["label"][:], splits.task.label_names)
    known = {"train": dataclasses.replace(train, rows=len(whole), class_counts=counts)}
    record = dataclasses.replace(splits.record, splits=known | {"test": splits.record.splits["test"]})
    return dataclasses.replace(splits, train=whole, validation=whole.select([]), record=record)
