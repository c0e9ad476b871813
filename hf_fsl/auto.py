"""Importing this module registers what is ours with transformers; nothing else does, and it loads torch.

``pipeline("text-classification", model=…)`` then loads a few-shot model that is no stock class, without remote code,
and ``pipeline("zero-shot-embedding-classification", model="sentence-transformers/all-MiniLM-L6-v2")`` gives a
:class:`~hf_fsl.pipelines.ZeroShotEmbeddingPipeline`. The stock tasks stay what they are: our pipelines for them are
asked for by ``pipeline_class=``.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForSequenceClassification
from transformers.pipelines import PIPELINE_REGISTRY

from hf_fsl.modeling import FewShotConfig, FewShotForImageClassification, FewShotForSequenceClassification
from hf_fsl.pipelines import ZeroShotEmbeddingPipeline

EMBEDDING_TASK = "zero-shot-embedding-classification"

if EMBEDDING_TASK not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        EMBEDDING_TASK, pipeline_class=ZeroShotEmbeddingPipeline, pt_model=AutoModel, type="text"
    )

AutoConfig.register(FewShotConfig.model_type, FewShotConfig, exist_ok=True)
AutoModelForSequenceClassification.register(FewShotConfig, FewShotForSequenceClassification, exist_ok=True)
AutoModelForImageClassification.register(FewShotConfig, FewShotForImageClassification, exist_ok=True)
