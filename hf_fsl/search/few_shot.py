"""The few labelled examples that a search sees: some to train on, some to compare architectures by."""

from __future__ import annotations

import dataclasses
from collections import Counter

import datasets
import numpy as np

from hf_fsl.config.search import ShotsConfig
from hf_fsl.core.images import as_rgb
from hf_fsl.data.loading import Splits
from hf_fsl.search.errors import SearchError
from hf_fsl.search.study.identity import fingerprint


def few_shot_splits(splits: Splits, config: ShotsConfig) -> Splits:
    """Splits whose training and validation examples are ``config.shots`` of each class in all, out of training.

    Raises:
        SearchError: a class has fewer.
    """
    names = splits.task.label_names
    labels = np.asarray(splits.train["label"][:])
    counts = Counter(labels.tolist())
    short = [f"{names[i]!r} has {counts[i]}" for i in range(len(names)) if counts[i] < config.shots]
    if short:
        raise SearchError(
            f"few_shot.shots={config.shots} needs as many training examples of every class; {', '.join(short)}. "
            "Lower few_shot.shots, or leave these classes out by data.label_names."
        )
    generator = np.random.default_rng(config.seed)
    drawn = np.stack([generator.permutation(np.flatnonzero(labels == i))[: config.shots] for i in range(len(names))])
    kept = config.shots - config.validation_shots
    train = splits.train.select(sorted(drawn[:, :kept].ravel().tolist()))
    validation = splits.train.select(sorted(drawn[:, kept:].ravel().tolist()))
    source = splits.record.splits["train"]
    record = dataclasses.replace(
        splits.record,
        splits={
            **splits.record.splits,
            "train": dataclasses.replace(source, rows=len(train), class_counts=dict.fromkeys(names, kept)),
            "validation": dataclasses.replace(
                source, rows=len(validation), class_counts=dict.fromkeys(names, config.validation_shots)
            ),
        },
    )
    return dataclasses.replace(splits, train=train, validation=validation, record=record)


def examples_fingerprint(data: datasets.Dataset) -> str:
    """Stands for the examples of a split: inputs and labels, in order."""
    rows: list[object] = []
    for example in data:
        for name in sorted(example):
            value = example[name]
            rows.append(as_rgb(value).tobytes() if name == "image" else value)
    return fingerprint(*rows)
