"""What a fine-tuned model is measured against, on the same test examples."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from hf_fsl.config.sections import ModelConfig
from hf_fsl.data.loading import Splits
from hf_fsl.models.backbones.backbone import Backbone

PROBE_C = (0.1, 1.0, 10.0, 100.0)
"""Inverse regularisation strengths of the linear probe, chosen among on the validation split."""


def baseline_predictions(name: str, splits: Splits, model: ModelConfig) -> np.ndarray:
    """Predictions on test of the baseline ``majority`` or ``linear_probe``."""
    return majority_predictions(splits) if name == "majority" else linear_probe_predictions(splits, model, True)


def majority_predictions(splits: Splits) -> np.ndarray:
    """The most frequent training class for every test example, ``(N,)``; for multi-label the most frequent set."""
    labels = [tuple(row) if splits.task.multi_label else row for row in splits.train["label"]]
    counts = Counter(labels)
    most = max(sorted(counts), key=counts.__getitem__)
    if not splits.task.multi_label:
        return np.full(len(splits.test), most)
    hot = np.zeros(len(splits.task.label_names), dtype=int)
    hot[list(most)] = 1
    return np.tile(hot, (len(splits.test), 1))


def linear_probe_predictions(splits: Splits, model: ModelConfig, progress: bool = False) -> np.ndarray:
    """Logistic regression on the frozen backbone's embeddings, ``(N,)``; its C is chosen on validation.

    For single-label tasks on single texts or images; the configuration refuses it for others.
    """
    backbone = Backbone.from_pretrained(
        model.model_name_or_path,
        revision=model.revision,
        max_length=model.max_length,
        trust_remote_code=model.trust_remote_code,
    )
    column = splits.task.input_columns[0]
    features = {
        name: backbone.encode(split[column], progress=progress, open_files=False).numpy()
        for name, split in (("train", splits.train), ("validation", splits.validation), ("test", splits.test))
    }
    best: LogisticRegression | None = None
    best_score = -1.0
    for strength in PROBE_C:
        probe = LogisticRegression(C=strength, max_iter=2000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(features["train"], splits.train["label"])
        score = probe.score(features["validation"], splits.validation["label"])
        if score > best_score:
            best, best_score = probe, score
    assert best is not None
    predictions: np.ndarray = best.predict(features["test"])
    return predictions
