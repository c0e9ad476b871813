"""From evidence for labels to scores, ranked answers, and calibration by a label prior."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_fsl.core.files import write_text
from hf_fsl.models.templates import ZeroShotError
from hf_fsl.zero_shot.label_sets import LabelSet

_RENAMED = {"descriptions": "label_texts", "question": "label_set"}
"""Old name -> new, in the files of label priors."""


@dataclass(frozen=True)
class LabelPrior:
    """How likely a model calls each label before it has read anything: the mean over unlabeled texts.

    Scores are corrected by it: log p - log p̄ for one of several labels, the same of log-odds for labels on their own.
    """

    label_set: LabelSet
    logarithm: tuple[float, ...]
    """log p̄ of each label (of several), or its log-odds (on their own)."""
    texts: int

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON. Returns the path."""
        return write_text(path, json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> LabelPrior:
        """What :meth:`save` wrote, by this version or one before it."""
        values = _with_new_names(json.loads(Path(path).read_text(encoding="utf-8")))
        fields = _with_new_names(values["label_set"])
        texts = tuple((label, text) for label, text in fields["label_texts"])
        label_set = LabelSet(tuple(fields["labels"]), tuple(fields["templates"]), texts, fields["multi_label"])
        return cls(label_set, tuple(values["logarithm"]), values["texts"])


def _with_new_names(values: dict[str, Any]) -> dict[str, Any]:
    return {_RENAMED.get(name, name): value for name, value in values.items()}


def scores_of(evidence: np.ndarray, multi_label: bool, prior: LabelPrior | None = None) -> np.ndarray:
    """Evidence for each label ``(…, L)`` -> scores of the same shape.

    Args:
        evidence: logits whose softmax says which label it is, or, for labels on their own, log-odds.
        prior: takes the label prior out.
    """
    evidence = evidence.astype(np.float64)
    if multi_label:
        odds = evidence - np.array(prior.logarithm) if prior else evidence
        result: np.ndarray = 0.5 * (1 + np.tanh(odds / 2))
        return result
    shifted = evidence - evidence.max(-1, keepdims=True)
    if prior:
        # p/p̄ made to sum to one is the softmax of the evidence less log p̄.
        shifted = shifted - np.array(prior.logarithm)
        shifted -= shifted.max(-1, keepdims=True)
    exponential = np.exp(shifted)
    return np.asarray(exponential / exponential.sum(-1, keepdims=True))


def estimate_prior(label_set: LabelSet, evidence: np.ndarray) -> LabelPrior:
    """The label prior of unlabeled texts with this evidence ``(N, L)``.

    Raises:
        ZeroShotError: no texts.
    """
    if not len(evidence):
        raise ZeroShotError("A label prior is the mean over unlabeled texts; got no text.")
    mean = scores_of(evidence, label_set.multi_label).mean(0).clip(1e-12, 1 - 1e-12)
    logarithm = np.log(mean) - np.log1p(-mean) if label_set.multi_label else np.log(mean)
    return LabelPrior(label_set, tuple(logarithm.tolist()), len(evidence))


def ranked(sequence: Any, labels: Sequence[str], scores: np.ndarray, ties: np.ndarray | None = None) -> dict[str, Any]:
    """An answer as transformers' zero-shot pipelines give it: labels by falling score.

    Args:
        ties: ``(L,)``, decides between labels of the same score.
    """
    order = np.argsort(scores)[::-1] if ties is None else np.lexsort((ties, scores))[::-1]
    return {"sequence": sequence, "labels": [labels[i] for i in order], "scores": scores[order].tolist()}
