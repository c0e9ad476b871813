"""A bi-encoder as a zero-shot classifier: a text goes to the label whose words lie nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hf_fsl.backbones import Backbone
from hf_fsl.zero_shot.label_cache import RecentTensors
from hf_fsl.zero_shot.scores import Question
from hf_fsl.zero_shot.templates import fill_templates

_NOTHING = "something"
"""Stands for any label: how near a text is to a template whatever the label."""


def label_prior(
    backbone: Backbone,
    labels: Sequence[str],
    templates: Sequence[str] = ("{}",),
    descriptions: Mapping[str, str] | None = None,
) -> Tensor:
    """Label embeddings ``(C, D)`` for a few-shot head: the mean over the templates, of whatever length it has.

    The head's transform does to them what it does to the examples.
    """
    filled = fill_templates(labels, templates, descriptions)
    return torch.stack([backbone.encode(texts) for texts in filled]).mean(0)


class LabelEncoder:
    """Label texts as prototypes: one embedding a label, kept between calls.

    Args:
        backbone: encodes labels and texts.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._kept = RecentTensors()

    def label_embeddings(self, question: Question) -> Tensor:
        """Embeddings ``(C, D)`` of length 1: the mean over the templates of the normalised embeddings."""
        filled = fill_templates(question.labels, question.templates, dict(question.descriptions))
        return self._mean(filled)

    def similarities(self, texts: Sequence[str], questions: Sequence[Question]) -> list[np.ndarray]:
        """Cosines of each text with the labels of its question: a list of ``(C,)``. Each text is encoded once."""
        return self.cosines(self.text_embeddings(texts), questions)

    def text_embeddings(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``(N, D)`` of length 1. Each text is encoded once."""
        unique = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        return normalize(self.backbone.encode(list(unique)), dim=-1)[[unique[text] for text in texts]]

    def cosines(self, embeddings: Tensor, questions: Sequence[Question]) -> list[np.ndarray]:
        """Of texts, by their :meth:`text_embeddings`, with the labels of the question of each."""
        labels = {question: self.label_embeddings(question) for question in set(questions)}
        return [(labels[question] @ row).numpy() for row, question in zip(embeddings, questions, strict=True)]

    def neutral(self, texts: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """Cosines ``(N,)`` with the templates when they name no label in particular."""
        texts = list(texts)
        reference = self._mean([[template.format(_NOTHING)] for template in templates])
        return (normalize(self.backbone.encode(texts), dim=-1) @ reference[0]).numpy()

    def _mean(self, filled: Sequence[Sequence[str]]) -> Tensor:
        key = tuple(text for row in filled for text in row) + (str(len(filled)),)

        def computed() -> Tensor:
            vectors = normalize(self.backbone.encode([text for row in filled for text in row]), dim=-1)
            return normalize(torch.stack(vectors.split(len(filled[0]))).mean(0), dim=-1)

        return self._kept.get(key, computed)
