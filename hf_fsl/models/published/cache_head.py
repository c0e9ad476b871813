"""Tip-Adapter's key-value cache, the one head here that is not linear (Zhang et al. 2022, arXiv:2207.09519)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .linear_head import FeatureTransform


@dataclass(frozen=True)
class CacheHead:
    """``logits = α · exp(−β (1 − z keysᵀ)) values + z priorᵀ`` over transformed, normalised embeddings z."""

    keys: Tensor
    """``(..., n, D')``: the supports in the same transform."""
    values: Tensor
    """``(..., n, C)``: their labels, one-hot."""
    prior: Tensor
    """``(..., C, D')``: the classifier from label names, already times its logit scale; zeros without one."""
    alpha: float | Tensor
    beta: float | Tensor
    transform: FeatureTransform = field(default_factory=lambda: FeatureTransform(normalize=True))
    scale: float | Tensor = 1.0
    """Factor on all logits: 1 / temperature."""

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Logits ``(..., N, C)`` of embeddings ``(..., N, D)``."""
        features = self.transform(embeddings)
        affinity = torch.exp(_wide(self.beta, features) * (features @ self.keys.mT - 1))
        logits = _wide(self.alpha, features) * (affinity @ self.values) + features @ self.prior.mT
        return _wide(self.scale, features) * logits

    @property
    def num_classes(self) -> int:
        return self.values.shape[-1]

    def scaled(self, factor: float | Tensor) -> CacheHead:
        """The head whose logits are ``factor`` times these."""
        return replace(self, scale=self.scale * factor)


def _wide(value: float | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)[..., None, None]
