"""What few-shot learning ends as: heads over embeddings, and the models that carry them."""

from __future__ import annotations

import importlib
from typing import Any

from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import FeatureTransform, LinearHead

_EXPORTS = {
    "ExportError": "hf_fsl.models.export.stock",
    "Exported": "hf_fsl.models.export.export",
    "FewShotConfig": "hf_fsl.models.published.configuration_few_shot",
    "FewShotForImageClassification": "hf_fsl.models.published.modeling_few_shot",
    "FewShotForSequenceClassification": "hf_fsl.models.published.modeling_few_shot",
    "backbone_of": "hf_fsl.models.export.loading",
    "load_published": "hf_fsl.models.export.loading",
    "export_model": "hf_fsl.models.export.export",
    "stock_pooling": "hf_fsl.models.export.stock",
}
"""These load transformers' model classes."""

__all__ = ["CacheHead", "FeatureTransform", "LinearHead", *_EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
