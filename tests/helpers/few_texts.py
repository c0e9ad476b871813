"""A few labelled texts that can be told apart by a word, as mapped splits."""

from __future__ import annotations

import datasets
import numpy as np

from hf_fsl.core.records import DataRecord, SplitRecord
from hf_fsl.core.task import Task
from hf_fsl.data import Splits
from tests.helpers.tiny_models import WORDS

NAMES = ("cat", "dog", "bird")


def text_splits(train: int = 12, test: int = 10, random_labels: bool = False) -> Splits:
    """``train`` and ``test`` examples of each class; the label's word is in the text, unless labels are random."""
    generator = np.random.default_rng(0)
    fillers = [word for word in WORDS if word not in NAMES]

    def split(size: int) -> datasets.Dataset:
        labels = [i % len(NAMES) for i in range(size * len(NAMES))]
        texts = [" ".join([*generator.choice(fillers, 5), NAMES[label]]) for label in labels]
        if random_labels:
            texts = [" ".join(generator.choice(WORDS, 6)) for _ in labels]
        return datasets.Dataset.from_dict({"text": texts, "label": labels})

    data = {"train": split(train), "validation": split(2), "test": split(test)}
    record = DataRecord(
        path="tiny",
        splits={name: SplitRecord(name=name, rows=len(d), class_counts={}) for name, d in data.items()},
    )
    return Splits(data["train"], data["validation"], data["test"], Task(modality="text", label_names=NAMES), record)
