"""Which labels of a text a cross-encoder should read: a bi-encoder says, taught by the other's view of a few texts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_fsl.models.templates import ZeroShotError

PENALTY = 0.3
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
    def fit(cls, embeddings: Tensor, cosines: Tensor, evidence: Tensor, penalty: float = PENALTY) -> Shortlister:
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
        embeddings, cosines, evidence = (one.double() for one in (embeddings, cosines, evidence))
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
