"""A bi-encoder as a zero-shot classifier: a text goes to the label whose words lie nearest."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from hf_fsl.models.backbones.backbone import Backbone
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
