"""The search space: sites of a model, architectures on them, and what PEFT makes of these."""

from hf_fsl.config.search_space import SearchSpaceConfig
from hf_fsl.search.space.architecture import (
    Architecture,
    adapter_parameters,
    check_fit,
    trainable_parameters,
    uniform_ranks,
    with_even_steps,
)
from hf_fsl.search.space.export import to_adapter_config, to_peft
from hf_fsl.search.space.latency import Latency, measure_adapter_latency, measure_latency
from hf_fsl.search.space.sites import GROUPS, Norm, Site, Sites, find_sites
from hf_fsl.search.space.space import SearchSpace

__all__ = [
    "GROUPS",
    "Architecture",
    "Latency",
    "Norm",
    "SearchSpace",
    "SearchSpaceConfig",
    "Site",
    "Sites",
    "adapter_parameters",
    "check_fit",
    "find_sites",
    "measure_adapter_latency",
    "measure_latency",
    "to_adapter_config",
    "to_peft",
    "trainable_parameters",
    "uniform_ranks",
    "with_even_steps",
]
