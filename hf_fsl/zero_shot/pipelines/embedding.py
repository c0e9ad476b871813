"""Zero-shot text classification by a bi-encoder: one forward a text, whatever the number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.templates import ZeroShotError
from hf_fsl.zero_shot.bi_encoder import LabelEncoder
from hf_fsl.zero_shot.pipelines.cutting import WHOLE, Cutting
from hf_fsl.zero_shot.pipelines.streaming import Evidence, Request, StreamedZeroShot

WINDOW_TEXTS = 1024
"""Texts sorted by length at a time."""


class ZeroShotEmbeddingPipeline(StreamedZeroShot):
    """Zero-shot classification by label embeddings, with the interface of the NLI pipeline.

    Scores are a softmax of cosines over ``temperature``; for labels on their own, the sigmoid of how much nearer a
    text is to the label than to the template with no particular label in it.

    Example::

        model = "sentence-transformers/all-MiniLM-L6-v2"
        pipe = pipeline("feature-extraction", model=model, pipeline_class=ZeroShotEmbeddingPipeline)
        pipe("The match ended two all.", candidate_labels=["sport", "politics"])

    Args:
        temperature: of the cosines; as it is in the training of sentence-transformers models by default.
        backbone: encodes instead of ``model`` and ``tokenizer``, pooled as it says.
    """

    default_template = "{}"

    def __init__(self, *, temperature: float = 0.05, backbone: Backbone | None = None, **kwargs: Any) -> None:
        if temperature <= 0:
            raise ZeroShotError(f"temperature: above 0, got {temperature}.")
        if backbone is not None:
            kwargs |= {"model": backbone.model, "tokenizer": backbone.tokenizer}
        super().__init__(**kwargs)
        self.temperature = temperature
        self.label_encoder = LabelEncoder(backbone or Backbone.of_model(self.model, self.tokenizer))

    def _evidence(
        self, requests: Sequence[Request], shortlist: int | None = None, cutting: Cutting = WHOLE
    ) -> list[Evidence]:
        texts = [request.text for request in requests]
        backbone = self.label_encoder.backbone.with_limit(
            texts, cutting.max_length, cut=cutting.cut, error=ZeroShotError
        )
        embeddings = self.label_encoder.text_embeddings(texts, backbone)
        label_sets = [request.label_set for request in requests]
        near = self.label_encoder.cosines(embeddings, label_sets)
        templates = {labels.templates for labels in label_sets if labels.multi_label}
        neutral = {each: self.label_encoder.neutral(embeddings, each) for each in templates}
        return [
            Evidence((cosines - (neutral[labels.templates][row] if labels.multi_label else 0)) / self.temperature)
            for row, (labels, cosines) in enumerate(zip(label_sets, near, strict=True))
        ]

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if kwargs.get("shortlist") is not None:
            raise ZeroShotError("shortlist is for the NLI pipeline; a bi-encoder scores any number of labels at once.")
        return super()._sanitize_parameters(**kwargs)

    def _window(self) -> int:
        return WINDOW_TEXTS
