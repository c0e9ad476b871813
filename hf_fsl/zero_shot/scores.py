"""From evidence for labels to scores, ranked answers, and calibration by a label prior."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_fsl.core.files import write_text
from hf_fsl.models.templates import ZeroShotError


@dataclass(frozen=True)
class Question:
    """What is asked of a text: which labels, in which words, one of them or each on its own."""

    labels: tuple[str, ...]
    templates: tuple[str, ...]
    descriptions: tuple[tuple[str, str], ...] = ()
    multi_label: bool = False


@dataclass(frozen=True)
class LabelPrior:
    """How likely a model calls each label before it has read anything: the mean over unlabelled texts.

    Scores are corrected by it: log p - log p̄ for one of several labels, the same of log-odds for labels on their own.
    """

    question: Question
    logarithm: tuple[float, ...]
    """log p̄ of each label (of several), or its log-odds (on their own)."""
    texts: int

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON. Returns the path."""
        return write_text(path, json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> LabelPrior:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        asked = values["question"]
        question = Question(
            tuple(asked["labels"]), tuple(asked["templates"]), tuple((name, text) for name, text in
            asked["descriptions"]), asked["multi_label"],
        )  # fmt: skip
        return cls(question, tuple(values["logarithm"]), values["texts"])


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


def estimate_prior(question: Question, evidence: np.ndarray) -> LabelPrior:
    """The label prior of unlabelled texts with this evidence ``(N, L)``.

    Raises:
        ZeroShotError: no texts.
    """
    if not len(evidence):
        raise ZeroShotError("A label prior is the mean over unlabelled texts; got no text.")
    mean = scores_of(evidence, question.multi_label).mean(0).clip(1e-12, 1 - 1e-12)
    logarithm = np.log(mean) - np.log1p(-mean) if question.multi_label else np.log(mean)
    return LabelPrior(question, tuple(logarithm.tolist()), len(evidence))


def ranked(sequence: Any, labels: Sequence[str], scores: np.ndarray, ties: np.ndarray | None = None) -> dict[str, Any]:
    """An answer as transformers' zero-shot pipelines give it: labels by falling score.

    Args:
        ties: ``(L,)``, decides between labels of the same score.
    """
    order = np.argsort(scores)[::-1] if ties is None else np.lexsort((ties, scores))[::-1]
    return {"sequence": sequence, "labels": [labels[i] for i in order], "scores": scores[order].tolist()}


def question_of(
    labels: Sequence[str],
    templates: Sequence[str],
    descriptions: Mapping[str, str] | None = None,
    multi_label: bool = False,
) -> Question:
    """A question with the descriptions of its own labels only."""
    own = tuple((label, descriptions[label]) for label in labels if label in descriptions) if descriptions else ()
    return Question(tuple(labels), tuple(templates), own, multi_label or len(labels) == 1)
