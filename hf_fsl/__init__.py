"""hf_fsl: from a Hub model and almost no labels to a published classifier.

Importing this package loads nothing heavy; ``import hf_fsl.auto`` registers our model classes with transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS: dict[str, str] = {
    "AdaptationConfig": "hf_fsl.config",
    "AdapterConfig": "hf_fsl.config",
    "FineTuneConfig": "hf_fsl.config",
    "load_config": "hf_fsl.config",
    "RunRecord": "hf_fsl.core.records",
    "Task": "hf_fsl.core.task",
    "load_splits": "hf_fsl.data",
    "Backbone": "hf_fsl.models.backbones",
    "attach_adapter": "hf_fsl.models.adapters",
    "EpisodeSampler": "hf_fsl.few_shot.episodes",
    "FewShotClassifier": "hf_fsl.few_shot.classifier.estimator",
    "evaluate_episodes": "hf_fsl.few_shot.episodes",
    "export_model": "hf_fsl.models.export",
    "train": "hf_fsl.training",
    "FewShotPipeline": "hf_fsl.few_shot.pipeline",
    "ImageTextScorer": "hf_fsl.zero_shot.clip",
    "ZeroShotEmbeddingPipeline": "hf_fsl.zero_shot.pipelines.embedding",
    "ZeroShotImagePipeline": "hf_fsl.zero_shot.pipelines.image",
    "ZeroShotTextPipeline": "hf_fsl.zero_shot.pipelines.text",
}

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'hf_fsl' has no attribute {name!r}; it exports {', '.join(_EXPORTS)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
