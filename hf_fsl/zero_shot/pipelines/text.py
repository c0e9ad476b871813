"""Zero-shot text classification by an NLI model: the stock pipeline's answers, for less."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.templates import ZeroShotError
from hf_fsl.zero_shot.bi_encoder import SIMILARITY_WEIGHT, LabelEncoder, Shortlister
from hf_fsl.zero_shot.label_sets import LabelSet
from hf_fsl.zero_shot.nli import EntailmentScorer
from hf_fsl.zero_shot.onnx_runtime import OnnxClassifier
from hf_fsl.zero_shot.pipelines.cutting import WHOLE, Cutting
from hf_fsl.zero_shot.pipelines.streaming import Evidence, Request, StreamedZeroShot, texts_of

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
            likeliest (:meth:`fit_shortlist` teaches it to); the others follow with score 0. Also an option of each
            call.
        shortlist_model: a bi-encoder, as a Hub id or a :class:`~hf_fsl.models.backbones.Backbone`.
        similarity_weight: among the labels of a shortlist, where it is one of them, so much times the cosine with the
            label joins the evidence: the bi-encoder has looked already. 0: the cross-encoder decides alone.
    """

    def __init__(
        self,
        *args: Any,
        entailment_id: int | None = None,
        contradiction_id: int | None = None,
        max_tokens: int | None = None,
        runtime: Literal["torch", "onnx", "int8"] = "torch",
        shortlist_model: str | Backbone = "sentence-transformers/all-MiniLM-L6-v2",
        similarity_weight: float = SIMILARITY_WEIGHT,
        **kwargs: Any,
    ) -> None:
        model, tokenizer = kwargs["model"], kwargs["tokenizer"]
        if runtime not in ("torch", "onnx", "int8"):
            raise ZeroShotError(f"runtime: torch, onnx or int8, got {runtime!r}.")
        self._run = None
        if runtime != "torch":
            precision: Literal["float32", "int8"] = "int8" if runtime == "int8" else "float32"
            self._run = OnnxClassifier(model.eval(), tokenizer, precision)
        self.scorer = EntailmentScorer(
            model, tokenizer, entailment_id=entailment_id, contradiction_id=contradiction_id, max_tokens=max_tokens
        )
        self._shortlist_model, self.similarity_weight = shortlist_model, similarity_weight
        self.shortlisters: dict[LabelSet, Shortlister] = {}
        """From :meth:`fit_shortlist`, by label set."""
        self._label_encoder: LabelEncoder | None = None
        super().__init__(**kwargs)

    @property
    def entailment_id(self) -> int:
        return self.scorer.entailment_id

    @property
    def label_encoder(self) -> LabelEncoder:
        """The bi-encoder that makes shortlists, loaded when it is needed."""
        if self._label_encoder is None:
            model = self._shortlist_model
            backbone = model if isinstance(model, Backbone) else Backbone.from_pretrained(model, device=self.device)
            self._label_encoder = LabelEncoder(backbone)
        return self._label_encoder

    def _evidence(
        self, requests: Sequence[Request], shortlist: int | None = None, cutting: Cutting = WHOLE
    ) -> list[Evidence]:
        chosen, ties, bonuses = self._shortlists(requests, shortlist)
        texts = {item.text: 0 for item in requests}
        filled = {label_set: label_set.hypotheses() for label_set in {item.label_set for item in requests}}
        hypotheses = {text: 0 for rows in filled.values() for row in rows for text in row}
        for known in (texts, hypotheses):
            known.update((text, row) for row, text in enumerate(known))
        rows = [
            (texts[item.text], hypotheses[template[label]])
            for item, labels in zip(requests, chosen, strict=True)
            for label in labels
            for template in filled[item.label_set]
        ]
        pairs, back = np.unique(np.array(rows), axis=0, return_inverse=True)
        logits = self.scorer.logits(
            list(texts), list(hypotheses), pairs, forward=self._run, max_length=cutting.max_length, cut=cutting.cut
        )[back.reshape(-1)]
        evidence, start = [], 0
        for item, labels, tie, bonus in zip(requests, chosen, ties, bonuses, strict=True):
            templates = len(item.label_set.templates)
            of_text = logits[start : start + len(labels) * templates].reshape(len(labels), templates, -1)
            start += len(labels) * templates
            values = np.full(len(item.label_set.labels), -np.inf)
            values[labels] = self._in_favor(of_text, item.label_set).mean(1) + bonus
            evidence.append(Evidence(values, tie))
        return evidence

    def _in_favor(self, logits: np.ndarray, label_set: LabelSet) -> np.ndarray:
        entailment: np.ndarray = logits[..., self.scorer.entailment_id]
        if not label_set.multi_label:
            return entailment
        return np.asarray(entailment - logits[..., self.scorer.contradiction_id])

    def fit_shortlist(self, texts: Iterable[str], candidate_labels: Any = None, **options: Any) -> Shortlister:
        """Teaches the bi-encoder which labels the cross-encoder would choose; later shortlists of the same label set
        are made by it.

        The cross-encoder scores every label of these texts once. A few hundred are enough: of 64 labels that no model
        had been trained on, the one that the cross-encoder chose was then among 8 for 95 % of the texts (200 taught;
        400: 96 %) instead of 75 % (supersense, validation split, the NLI model that comes along).

        Args:
            texts: unlabeled, of the kind that will be classified.
            candidate_labels, hypothesis_template, multi_label, label_texts: as in a call.

        Raises:
            ZeroShotError: fewer than two texts.
        """
        texts = list(texts_of(texts))
        label_set, evidence = self._evidence_of(texts, candidate_labels, {**options, "shortlist": None})
        if not texts:
            raise ZeroShotError("A shortlist is learned from unlabeled texts; got no text.")
        embeddings = self.label_encoder.text_embeddings(texts)
        cosines = np.stack(self.label_encoder.cosines(embeddings, [label_set] * len(texts)))
        learned = Shortlister.fit(embeddings, torch.from_numpy(cosines), torch.from_numpy(evidence))
        self.shortlisters[label_set] = learned
        return learned

    def _shortlists(
        self, requests: Sequence[Request], size: int | None
    ) -> tuple[list[np.ndarray], Sequence[np.ndarray | None], Sequence[np.ndarray | float]]:
        """Of each text: which labels are scored, what orders the others, and what is added to the scored ones."""
        label_sets = [item.label_set for item in requests]
        if size is None or all(size >= len(label_set.labels) for label_set in label_sets):
            count = len(requests)
            return [np.arange(len(label_set.labels)) for label_set in label_sets], [None] * count, [0.0] * count
        embeddings = self.label_encoder.text_embeddings([item.text for item in requests])
        cosines = self.label_encoder.cosines(embeddings, label_sets)
        near = [self._guess(*row) for row in zip(label_sets, embeddings, cosines, strict=True)]
        chosen = [np.sort(np.argsort(-row)[:size]) for row in near]
        weights = [0.0 if label_set.multi_label else self.similarity_weight for label_set in label_sets]
        bonuses = [weight * row[few] for weight, row, few in zip(weights, cosines, chosen, strict=True)]
        return chosen, near, bonuses

    def _guess(self, label_set: LabelSet, embedding: Tensor, cosines: np.ndarray) -> np.ndarray:
        learned = self.shortlisters.get(label_set)
        if learned is None:
            return cosines
        return learned(embedding[None], torch.from_numpy(cosines)[None])[0].numpy()

    def _check(self, label_set: LabelSet) -> None:
        if label_set.multi_label and self.scorer.contradiction_id is None:
            raise ZeroShotError(
                "Labels on their own (multi_label, or one label only) are scored entailment against contradiction; "
                f"the model's config names {', '.join(self.scorer.names)}. Say which class it is: contradiction_id=…"
            )

    def _begin(self) -> None:
        self.scorer.count_padding()

    def _weight(self, label_set: LabelSet) -> int:
        return len(label_set.labels) * len(label_set.templates)

    def _window(self) -> int:
        return WINDOW_PAIRS
