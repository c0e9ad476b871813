"""Configuration: frozen dataclass sections, strict loading. Never imports torch."""

from typing import Any

from hf_fsl.config.adaptation import AdaptationConfig
from hf_fsl.config.command_line import config_from_command_line, run_recipe
from hf_fsl.config.contrastive import (
    AugmentationConfig,
    ContrastiveConfig,
    ContrastiveLossConfig,
    DualEncoderConfig,
    PairsConfig,
    TowerConfig,
)
from hf_fsl.config.few_shot import ClassifierConfig, EpisodesConfig, FewShotRecipeConfig
from hf_fsl.config.loading import ConfigError, load_config, read_yaml, to_dict
from hf_fsl.config.search import AdapterSearchConfig
from hf_fsl.config.sections import (
    AdapterConfig,
    DataConfig,
    EvaluationConfig,
    FineTuneConfig,
    HubConfig,
    ModelConfig,
    TrainingConfig,
)
from hf_fsl.config.zero_shot import ZeroShotClipConfig, ZeroShotConfig, ZeroShotNLIConfig

RECIPES: dict[str, type[Any]] = {
    "few_shot": FewShotRecipeConfig,
    "fine_tune": FineTuneConfig,
    "train_contrastive": ContrastiveConfig,
    "search_adapters": AdapterSearchConfig,
    "zero_shot_nli": ZeroShotNLIConfig,
    "zero_shot_clip": ZeroShotClipConfig,
}
"""Recipe name, as a config's ``recipe`` field and as the script's name -> its config class."""

__all__ = [
    "RECIPES",
    "AdaptationConfig",
    "AdapterConfig",
    "AdapterSearchConfig",
    "AugmentationConfig",
    "ClassifierConfig",
    "ConfigError",
    "ContrastiveConfig",
    "ContrastiveLossConfig",
    "DataConfig",
    "DualEncoderConfig",
    "EpisodesConfig",
    "EvaluationConfig",
    "FewShotRecipeConfig",
    "FineTuneConfig",
    "HubConfig",
    "ModelConfig",
    "PairsConfig",
    "TowerConfig",
    "TrainingConfig",
    "ZeroShotClipConfig",
    "ZeroShotConfig",
    "ZeroShotNLIConfig",
    "config_from_command_line",
    "load_config",
    "read_yaml",
    "run_recipe",
    "to_dict",
]
