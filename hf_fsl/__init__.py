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
    "RunRecord": "hf_fsl.records",
    "Task": "hf_fsl.tasks",
    "load_splits": "hf_fsl.data",
    "Backbone": "hf_fsl.backbones",
    "attach_adapter": "hf_fsl.adapters",
    "EpisodeSampler": "hf_fsl.episodes",
    "FewShotClassifier": "hf_fsl.classifier",
    "evaluate_episodes": "hf_fsl.episodic",
    "export_model": "hf_fsl.modeling",
    "train": "hf_fsl.training",
    "FewShotPipeline": "hf_fsl.pipelines",
    "ImageTextScorer": "hf_fsl.zero_shot.clip",
    "ZeroShotEmbeddingPipeline": "hf_fsl.pipelines",
    "ZeroShotImagePipeline": "hf_fsl.pipelines",
    "ZeroShotTextPipeline": "hf_fsl.pipelines",
}

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'hf_fsl' has no attribute {name!r}; it exports {', '.join(_EXPORTS)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
