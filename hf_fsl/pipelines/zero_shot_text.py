"""Zero-shot text classification by an NLI model: the stock pipeline's answers, for less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from hf_fsl.backbones import Backbone
from hf_fsl.pipelines.streaming import Asked, Evidence, StreamedZeroShot
from hf_fsl.zero_shot.bi_encoder import LabelEncoder
from hf_fsl.zero_shot.nli import EntailmentScorer
from hf_fsl.zero_shot.onnx_runtime import OnnxClassifier
from hf_fsl.zero_shot.scores import Question
from hf_fsl.zero_shot.templates import ZeroShotError, fill_templates

WINDOW_PAIRS = 4096
"""Pairs sorted by length at a time."""


class ZeroShotTextPipeline(StreamedZeroShot):
    """NLI zero-shot classification: drops in for transformers' pipeline, the same scores.

    Example::

        model = "facebook/bart-large-mnli"
        pipe = pipeline("zero-shot-classification", model=model, pipeline_class=ZeroShotTextPipeline)
        pipe("The match ended two all.", candidate_labels=["sport", "politics"])

    Args:
        entailment_id, contradiction_id: rows of the model's logits, where the names in its config do not say.
        max_tokens: tokens a batch, padding included; None: what suits the device.
        runtime: ``onnx`` runs the model by ONNX Runtime on the CPU; ``int8`` the same with int8 matrix products:
            faster, scores a little off. Both need ``hf_fsl[onnx]``.
        shortlist: the cross-encoder scores only so many labels of a text, those that ``shortlist_model`` finds
            likeliest; the others follow with score 0. Also an option of each call.
        shortlist_model: a bi-encoder, as a Hub id or a :class:`~hf_fsl.backbones.Backbone`.
    """

    def __init__(
        self,
        *args: Any,
        entailment_id: int | None = None,
        contradiction_id: int | None = None,
        max_tokens: int | None = None,
        runtime: Literal["torch", "onnx", "int8"] = "torch",
        shortlist_model: str | Backbone = "sentence-transformers/all-MiniLM-L6-v2",
        **kwargs: Any,
    ) -> None:
        model, tokenizer = kwargs["model"], kwargs["tokenizer"]
        if runtime not in ("torch", "onnx", "int8"):
            raise ZeroShotError(f"runtime: torch, onnx or int8, got {runtime!r}.")
        self._run = None
        if runtime != "torch":
            precision: Literal["float32", "int8"] = "int8" if runtime == "int8" else "float32"
            self._run = OnnxClassifier(model.eval(), tokenizer.model_input_names, precision)
        self.scorer = EntailmentScorer(
            model, tokenizer, entailment_id=entailment_id, contradiction_id=contradiction_id, max_tokens=max_tokens
        )
        self._shortlist_model = shortlist_model
        self._label_encoder: LabelEncoder | None = None
        super().__init__(**kwargs)

    @property
    def entailment_id(self) -> int:
        return self.scorer.entailment_id

    @property
    def label_encoder(self) -> LabelEncoder:
        """The bi-encoder that makes shortlists, loaded when it is needed."""
        if self._label_encoder is None:
            given = self._shortlist_model
            backbone = given if isinstance(given, Backbone) else Backbone.from_pretrained(given, device=self.device)
            self._label_encoder = LabelEncoder(backbone)
        return self._label_encoder

    def _evidence(self, asked: Sequence[Asked], shortlist: int | None = None) -> list[Evidence]:
        chosen, ties = self._shortlists(asked, shortlist)
        texts = {item.text: 0 for item in asked}
        filled = {question: _hypotheses(question) for question in {item.question for item in asked}}
        hypotheses = {text: 0 for rows in filled.values() for row in rows for text in row}
        for known in (texts, hypotheses):
            known.update((text, row) for row, text in enumerate(known))
        rows = [
            (texts[item.text], hypotheses[template[label]])
            for item, labels in zip(asked, chosen, strict=True)
            for label in labels
            for template in filled[item.question]
        ]
        pairs, back = np.unique(np.array(rows), axis=0, return_inverse=True)
        logits = self.scorer.logits(list(texts), list(hypotheses), pairs, forward=self._run)[back.reshape(-1)]
        evidence, start = [], 0
        for item, labels, tie in zip(asked, chosen, ties, strict=True):
            templates = len(item.question.templates)
            own = logits[start : start + len(labels) * templates].reshape(len(labels), templates, -1)
            start += len(labels) * templates
            values = np.full(len(item.question.labels), -np.inf)
            values[labels] = self._in_favour(own, item.question).mean(1)
            evidence.append(Evidence(values, tie))
        return evidence

    def _in_favour(self, logits: np.ndarray, question: Question) -> np.ndarray:
        entailment: np.ndarray = logits[..., self.scorer.entailment_id]
        if not question.multi_label:
            return entailment
        if self.scorer.contradiction_id is None:
            raise ZeroShotError(
                "Labels on their own (multi_label, or one label only) are scored entailment against contradiction; "
                f"the model's config names {', '.join(self.scorer.names)}. Say which class it is: contradiction_id=…"
            )
        return np.asarray(entailment - logits[..., self.scorer.contradiction_id])

    def _shortlists(
        self, asked: Sequence[Asked], size: int | None
    ) -> tuple[list[np.ndarray], list[np.ndarray] | list[None]]:
        """Which labels of each text are scored, and what orders the others."""
        if size is None or all(size >= len(item.question.labels) for item in asked):
            return [np.arange(len(item.question.labels)) for item in asked], [None] * len(asked)
        questions = [item.question for item in asked]
        near = self.label_encoder.similarities([item.text for item in asked], questions)
        return [np.sort(np.argsort(-row)[:size]) for row in near], near

    def _texts_a_window(self, question: Question) -> int:
        return max(1, WINDOW_PAIRS // (len(question.labels) * len(question.templates)))


def _hypotheses(question: Question) -> list[list[str]]:
    return fill_templates(question.labels, question.templates, dict(question.descriptions))
