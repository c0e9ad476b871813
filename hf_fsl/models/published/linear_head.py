"""The one form nearly every few-shot classifier ends as: a fixed feature transform, then a linear map.

Every tensor may carry leading batch dimensions ``...`` (episodes), which broadcast; a head that is published has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureTransform:
    """Centre, project, L2-normalise, in that order; each is optional. Fixed when a head is fitted."""

    centre: Tensor | None = None
    """``(..., D)``, taken from every embedding."""
    projection: Tensor | None = None
    """``(..., D, D')``."""
    normalize: bool = False

    def __call__(self, embeddings: Tensor) -> Tensor:
        """``(..., N, D)`` -> ``(..., N, D')``."""
        if self.centre is not None:
            embeddings = embeddings - self.centre.unsqueeze(-2)
        if self.projection is not None:
            embeddings = embeddings @ self.projection
        return torch.nn.functional.normalize(embeddings, dim=-1) if self.normalize else embeddings

    @property
    def linear(self) -> bool:
        """Whether the transform is affine, so that a linear head behind it is linear in the raw embeddings."""
        return not self.normalize


@dataclass(frozen=True)
class LinearHead:
    """``logits = transform(z) Wᵀ + b``."""

    weight: Tensor
    """W ``(..., C, D')``."""
    bias: Tensor
    """b ``(..., C)``."""
    transform: FeatureTransform = field(default_factory=FeatureTransform)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Logits ``(..., N, C)`` of embeddings ``(..., N, D)``."""
        return self.transform(embeddings) @ self.weight.mT + self.bias.unsqueeze(-2)

    @property
    def num_classes(self) -> int:
        return self.bias.shape[-1]

    def scaled(self, factor: float | Tensor) -> LinearHead:
        """The head whose logits are ``factor`` times these (1 / temperature); ``factor`` is a number or ``(...)``."""
        factor = torch.as_tensor(factor, dtype=self.weight.dtype, device=self.weight.device)
        return replace(self, weight=self.weight * factor[..., None, None], bias=self.bias * factor[..., None])

    def folded(self) -> LinearHead:
        """The same logits without a transform: the centre goes into b, the projection into W.

        Raises:
            ValueError: the transform normalises, which no linear map can do.
        """
        if not self.transform.linear:
            raise ValueError("A head over L2-normalised features is not linear in the raw ones and cannot be folded.")
        weight, bias = self.weight, self.bias
        if self.transform.projection is not None:
            weight = weight @ self.transform.projection.mT
        if self.transform.centre is not None:
            bias = bias - (weight @ self.transform.centre.unsqueeze(-1)).squeeze(-1)
        return LinearHead(weight, bias)
