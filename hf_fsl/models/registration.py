"""Importing this module registers few-shot models that are no stock class with transformers' Auto classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_fsl.models.published.configuration_few_shot import FewShotConfig
from hf_fsl.models.published.modeling_few_shot import (
    FewShotForImageClassification,
    FewShotForSequenceClassification,
)

AutoConfig.register(FewShotConfig.model_type, FewShotConfig, exist_ok=True)
AutoModelForSequenceClassification.register(FewShotConfig, FewShotForSequenceClassification, exist_ok=True)
AutoModelForImageClassification.register(FewShotConfig, FewShotForImageClassification, exist_ok=True)
