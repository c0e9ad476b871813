"""Adapters: where they go, how they are attached, counted and merged."""

from hf_fsl.models.adapters.attach import (
    ParameterCount,
    attach_adapter,
    count_parameters,
    describe_adapter,
    merge_adapter,
)
from hf_fsl.models.adapters.gradients import LayerGradient, evaluating, low_rank_gradients, only_trainable, start_along
from hf_fsl.models.adapters.methods import METHODS, peft_config, trained_in_full
from hf_fsl.models.adapters.targets import AdapterError

__all__ = [
    "METHODS",
    "AdapterError",
    "LayerGradient",
    "ParameterCount",
    "attach_adapter",
    "count_parameters",
    "describe_adapter",
    "evaluating",
    "low_rank_gradients",
    "merge_adapter",
    "only_trainable",
    "peft_config",
    "start_along",
    "trained_in_full",
]
