"""Adapters: where they go, how they are attached, counted and merged."""

from hf_fsl.models.adapters.attach import (
    ParameterCount,
    attach_adapter,
    count_parameters,
    describe_adapter,
    merge_adapter,
    peft_config,
    trained_in_full,
)
from hf_fsl.models.adapters.gradients import LayerGradient, alone_required, evaluating, low_rank_gradients, start_along
from hf_fsl.models.adapters.targets import AdapterError

__all__ = [
    "AdapterError",
    "LayerGradient",
    "ParameterCount",
    "alone_required",
    "attach_adapter",
    "count_parameters",
    "describe_adapter",
    "evaluating",
    "low_rank_gradients",
    "merge_adapter",
    "peft_config",
    "start_along",
    "trained_in_full",
]
