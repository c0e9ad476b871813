"""Configuration: frozen dataclass sections, strict loading. Never imports torch."""

from hf_fsl.config.command_line import config_from_command_line, run_recipe
from hf_fsl.config.loading import ConfigError, load_config, read_yaml, to_dict
from hf_fsl.config.sections import (
    AdapterConfig,
    DataConfig,
    EvaluationConfig,
    FineTuneConfig,
    HubConfig,
    ModelConfig,
    TrainingConfig,
)

RECIPES = {"fine_tune": FineTuneConfig}
"""Recipe name, as a config's ``recipe`` field and as the script's name -> its config class."""

__all__ = [
    "RECIPES",
    "AdapterConfig",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "FineTuneConfig",
    "HubConfig",
    "ModelConfig",
    "TrainingConfig",
    "config_from_command_line",
    "load_config",
    "read_yaml",
    "run_recipe",
    "to_dict",
]
