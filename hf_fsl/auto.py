"""Importing this module registers what is ours with transformers; nothing else does, and it loads torch.

``pipeline("text-classification", model=…)`` then loads a few-shot model that is no stock class, without remote code;
``few-shot-classification`` is the task of :class:`~hf_fsl.few_shot.pipeline.FewShotPipeline`, for any encoder, and
``zero-shot-embedding-classification`` that of :class:`~hf_fsl.zero_shot.pipelines.ZeroShotEmbeddingPipeline`. The
stock tasks stay what they are: our pipelines for them are asked for by ``pipeline_class=``.
"""

from __future__ import annotations

from transformers import AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from hf_fsl.few_shot.pipeline import EncoderLoader, FewShotPipeline
from hf_fsl.models import registration  # noqa: F401
from hf_fsl.zero_shot.pipelines.embedding import ZeroShotEmbeddingPipeline

EMBEDDING_TASK = "zero-shot-embedding-classification"
FEW_SHOT_TASK = "few-shot-classification"

if EMBEDDING_TASK not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        EMBEDDING_TASK, pipeline_class=ZeroShotEmbeddingPipeline, pt_model=AutoModel, type="text"
    )
if FEW_SHOT_TASK not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        FEW_SHOT_TASK, pipeline_class=FewShotPipeline, pt_model=EncoderLoader, type="multimodal"
    )
