"""A bi-encoder among labels: the one nearest to a text, or the shortlist that a cross-encoder reads."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.templates import ZeroShotError
from hf_fsl.zero_shot.label_cache import RecentTensors, weights_state
from hf_fsl.zero_shot.label_sets import LabelSet

_NOTHING = "something"
"""Stands for any label: how near a text is to a template whatever the label."""


class LabelEncoder:
    """Label texts as prototypes: each encoded once, and kept between calls as long as the weights are the same.

    Args:
        backbone: encodes labels and texts.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._texts, self._sets = RecentTensors(), RecentTensors()
        """By filled text: label sets that overlap share them. By label set: one that comes again is at hand."""
        self._weights: Hashable = None

    def label_embeddings(self, label_set: LabelSet) -> Tensor:
        """Embeddings ``(C, D)`` of length 1: the mean over the templates of the normalised embeddings."""
        return next(self._of([label_set])).clone()

    def text_embeddings(self, texts: Sequence[str], backbone: Backbone | None = None) -> Tensor:
        """Embeddings ``(N, D)`` of length 1, by a view of the backbone if one is given. Each text is encoded once."""
        unique = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        embeddings = normalize((backbone or self.backbone).encode(list(unique), open_files=False), dim=-1)
        return embeddings[[unique[text] for text in texts]]

    def cosines(self, embeddings: Tensor, label_sets: Sequence[LabelSet]) -> list[np.ndarray]:
        """Of texts, by their :meth:`text_embeddings`, with the labels of the label set of each."""
        rows: dict[LabelSet, list[int]] = {}
        for row, label_set in enumerate(label_sets):
            rows.setdefault(label_set, []).append(row)
        found: dict[int, np.ndarray] = {}
        for own, labels in zip(rows.values(), self._of(list(rows)), strict=True):
            found.update(zip(own, (embeddings[own] @ labels.T).numpy(), strict=True))
        return [found[row] for row in range(len(label_sets))]

    def neutral(self, embeddings: Tensor, templates: Sequence[str]) -> np.ndarray:
        """Cosines ``(N,)`` of texts, by their embeddings, with templates that name no label in particular."""
        (reference,) = self._of([LabelSet((_NOTHING,), tuple(templates))])
        return (embeddings @ reference[0]).numpy()

    def _of(self, label_sets: Sequence[LabelSet]) -> Iterator[Tensor]:
        """Label embeddings ``(C, D)``, one label set after the other; what is new in any is encoded in one go."""
        state = weights_state(nn.ModuleList([self.backbone.model, *self.backbone.modules.dense]))
        if state != self._weights:
            self._texts.clear()
            self._sets.clear()
            self._weights = state
        # Looked up before any is made: what is made may push them out.
        at_hand = {label_set: self._sets.find(label_set) for label_set in label_sets}
        filled = {label_set: label_set.hypotheses() for label_set, kept in at_hand.items() if kept is None}
        vectors = self._encoded(list(dict.fromkeys(text for rows in filled.values() for row in rows for text in row)))
        for label_set, kept in at_hand.items():
            if kept is None:
                of_templates = (torch.stack([vectors[text] for text in row]) for row in filled[label_set])
                kept = self._sets.keep(label_set, normalize(reduce(torch.add, of_templates), dim=-1))
            yield kept

    def _encoded(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Embeddings ``(D,)`` of length 1 by text; those that are not kept are computed."""
        kept = {text: self._texts.find(text) for text in texts}
        missing = [text for text, vector in kept.items() if vector is None]
        if missing:
            for text, vector in zip(
                missing, normalize(self.backbone.encode(missing, open_files=False), dim=-1), strict=True
            ):
                kept[text] = self._texts.keep(text, vector.clone())  # a view would hold on to all of them
        return {text: vector for text, vector in kept.items() if vector is not None}


RIDGE_PENALTY = 0.3
"""Of the ridge; embeddings have length 1. Settled on the validation split of supersense, as is the next one."""

SIMILARITY_WEIGHT = 3.0
"""Logits of entailment that a cosine of 1 with the label counts as, among the labels of a shortlist."""


@dataclass(frozen=True)
class Shortlister:
    """Guesses a cross-encoder's evidence for C labels from a text's embedding.

    The cosine with the label times ``scale``, how much the label gets whatever the text, and a ridge regression of the
    rest on the embedding.
    """

    scale: float
    bias: Tensor
    """``(C,)``"""
    weights: Tensor
    """``(D, C)``"""
    centre: Tensor
    """``(D,)``"""
    mean_cosines: Tensor
    """``(C,)``"""

    @classmethod
    def fit(cls, embeddings: Tensor, cosines: Tensor, evidence: Tensor, penalty: float = RIDGE_PENALTY) -> Shortlister:
        """In closed form, by the n × n kernel.

        Args:
            embeddings: of texts, ``(n, D)``, of length 1.
            cosines: of the texts with the labels, ``(n, C)``.
            evidence: of the cross-encoder, ``(n, C)``.

        Raises:
            ZeroShotError: fewer than two texts.
        """
        if len(embeddings) < 2:
            raise ZeroShotError(f"A shortlist is learned from two texts or more, got {len(embeddings)}.")
        embeddings, cosines, evidence = (values.double() for values in (embeddings, cosines, evidence))
        wanted = evidence - evidence.mean(1, keepdim=True)  # only the order of a text's labels matters
        bias, mean_cosines, centre = wanted.mean(0), cosines.mean(0), embeddings.mean(0)
        wanted, near, centred = wanted - bias, cosines - mean_cosines, embeddings - centre
        scale = float((near * wanted).sum() / near.square().sum().clamp(min=1e-12))
        kernel = centred @ centred.T + penalty * torch.eye(len(centred), dtype=torch.float64)
        weights = centred.T @ torch.linalg.solve(kernel, wanted - scale * near)
        return cls(scale, bias.float(), weights.float(), centre.float(), mean_cosines.float())

    def __call__(self, embeddings: Tensor, cosines: Tensor) -> Tensor:
        """Guessed evidence ``(N, C)``."""
        return self.scale * (cosines - self.mean_cosines) + self.bias + (embeddings - self.centre) @ self.weights
