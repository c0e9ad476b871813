"""hf_fsl: from a Hub model and almost no labels to a published classifier.

Importing this package loads nothing heavy; ``import hf_fsl.auto`` registers our model classes with transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_EXPORTS: dict[str, str] = {
    "AdaptationConfig": "hf_fsl.config.adaptation",
    "AdapterConfig": "hf_fsl.config.sections",
    "AdapterSearchConfig": "hf_fsl.config.search",
    "Backbone": "hf_fsl.models.backbones.backbone",
    "ContrastiveConfig": "hf_fsl.config.contrastive",
    "EpisodeSampler": "hf_fsl.few_shot.episodes.sampler",
    "FewShotClassifier": "hf_fsl.few_shot.classifier.estimator",
    "FewShotPipeline": "hf_fsl.few_shot.pipeline",
    "FewShotRecipeConfig": "hf_fsl.config.few_shot",
    "FineTuneConfig": "hf_fsl.config.sections",
    "ImageTextScorer": "hf_fsl.zero_shot.clip",
    "RunRecord": "hf_fsl.core.records",
    "Task": "hf_fsl.core.task",
    "UserError": "hf_fsl.core.errors",
    "ZeroShotClipConfig": "hf_fsl.config.zero_shot",
    "ZeroShotEmbeddingPipeline": "hf_fsl.zero_shot.pipelines.embedding",
    "ZeroShotImagePipeline": "hf_fsl.zero_shot.pipelines.image",
    "ZeroShotNLIConfig": "hf_fsl.config.zero_shot",
    "ZeroShotTextPipeline": "hf_fsl.zero_shot.pipelines.text",
    "adapt": "hf_fsl.few_shot.adaptation.adapt",
    "attach_adapter": "hf_fsl.models.adapters.attach",
    "choose_head": "hf_fsl.few_shot.heads.auto",
    "evaluate_episodes": "hf_fsl.few_shot.episodes.evaluation",
    "export_model": "hf_fsl.models.export.export",
    "load_config": "hf_fsl.config.loading",
    "load_splits": "hf_fsl.data.loading",
    "training_loop": "hf_fsl.training.loop",
}
_RENAMED = {"train": "training_loop"}

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    if name in _RENAMED:
        raise AttributeError(f"hf_fsl.{name} is now called hf_fsl.{_RENAMED[name]}.")
    raise AttributeError(f"module 'hf_fsl' has no attribute {name!r}; it exports {', '.join(_EXPORTS)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
