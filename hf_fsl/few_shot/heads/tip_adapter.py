"""Tip-Adapter without training: a cache of the supports beside the zero-shot classifier (arXiv:2207.09519)."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_fsl.few_shot.heads.estimator import Estimator
from hf_fsl.few_shot.heads.support import SupportSet, zero_shot_weight
from hf_fsl.models.published.cache_head import CacheHead


def tip_adapter(
    support: SupportSet, *, alpha: float = 1.0, beta: float = 5.5, logit_scale: float = 100.0
) -> CacheHead:
    """``α · exp(−β(1 − z·z_i)) Y + logit_scale · z·W₀``; the defaults are the paper's, and CLIP's logit scale."""
    values = support.one_hot * support.weights.unsqueeze(-1)
    return CacheHead(
        support.features, values, zero_shot_weight(support, logit_scale), alpha, beta, transform=support.transform
    )


def tip_adapter_held_out(
    support: SupportSet, *, alpha: float = 1.0, beta: float = 5.5, logit_scale: float = 100.0
) -> Tensor:
    """Leave-one-out logits ``(..., n, C)``: each support's own key is left out, which gave its class α·exp(0)."""
    support = support.double()
    features = support.features
    affinity = torch.exp(beta * (features @ features.mT - 1))
    affinity = affinity - torch.diag_embed(affinity.diagonal(dim1=-2, dim2=-1))
    return (
        alpha * affinity @ (support.one_hot * support.weights.unsqueeze(-1))
        + features @ zero_shot_weight(support, logit_scale).mT
    )


CACHE = Estimator(
    "cache", tip_adapter, tip_adapter_held_out, normalize=True, transform_is_fixed=True, uses_label_embeddings=True,
    grid=tuple(
        {"alpha": a, "beta": b, "logit_scale": c} for a in (0.3, 1.0, 3.0) for b in (2.0, 5.5) for c in (5.0, 20.0)
    ),
)  # fmt: skip
