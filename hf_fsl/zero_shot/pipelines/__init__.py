"""Pipelines of transformers' interface, for what its own cost too much or lack."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "ZeroShotEmbeddingPipeline": "hf_fsl.zero_shot.pipelines.embedding",
    "ZeroShotImagePipeline": "hf_fsl.zero_shot.pipelines.image",
    "ZeroShotTextPipeline": "hf_fsl.zero_shot.pipelines.text",
}

__all__ = list(_EXPORTS)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
