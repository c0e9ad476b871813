"""From a published few-shot model back to its encoder, to encode further examples in the same space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedConfig

from hf_fsl.backbones import Backbone
from hf_fsl.backbones.modules import EmbeddingModules
from hf_fsl.modeling import modeling_few_shot
from hf_fsl.modeling.processors import without_prompt
from hf_fsl.modeling.stock import FAMILIES
from hf_fsl.modeling.towers import ExportError


@dataclass(frozen=True)
class Published:
    """A published few-shot model, with its tokenizer or image processor."""

    model: Any
    processor: Any


def load_published(
    model_name_or_path: str, *, revision: str | None = None, dtype: torch.dtype | str = "auto"
) -> Published | None:
    """Loads a few-shot model that hf_fsl published, of a stock class or of ours.

    Returns:
        None where the repository holds something else.

    Raises:
        ExportError: the repository says that it is one, and does not load.
    """
    try:
        kind = published_class(model_name_or_path, revision)
        if kind is None:
            return None
        model = kind.from_pretrained(model_name_or_path, revision=revision, dtype=dtype)
        auto = AutoImageProcessor if model.main_input_name == "pixel_values" else AutoTokenizer
        return Published(model, auto.from_pretrained(model_name_or_path, revision=revision, trust_remote_code=False))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ExportError(f"{model_name_or_path} does not load as a few-shot model: {error}") from error


def published_class(model_name_or_path: str, revision: str | None = None) -> Any:
    """The class of a few-shot model that hf_fsl published; None where the repository holds something else."""
    settings, _ = PreTrainedConfig.get_config_dict(model_name_or_path, revision=revision)
    ours = settings.get("model_type") == "few-shot"
    if not ours and not isinstance(settings.get("hf_fsl"), dict):
        return None
    (architecture,) = settings["architectures"]
    return getattr(modeling_few_shot if ours else transformers, architecture)


def is_published(model: Any) -> bool:
    """Whether a model is one that :func:`backbone_of` takes."""
    return model.config.model_type == "few-shot" or isinstance(getattr(model.config, "hf_fsl", None), dict)


def backbone_of(model: Any, processor: Any) -> Backbone:
    """The backbone of a published few-shot model: its ``encode`` gives the embeddings that the head was fitted on.

    Args:
        model: what :func:`export_model` made, a stock class or ours, or the same loaded again (as remote code, too).
        processor: its tokenizer or image processor.

    Raises:
        ExportError: a model that was not published by hf_fsl, or whose head took in a layer of its backbone.
    """
    config = model.config
    if config.model_type == "few-shot":
        encoder, dense = model.backbone, list(model.dense)
        modules = EmbeddingModules(config.pooling, dense, config.normalize_embeddings, config.max_tokens)
        modules.include_prompt = not config.skipped_tokens
        modules.leading_tokens = getattr(config, "leading_tokens", 1)
        name, prompt = config.backbone_name, config.prompt
    else:
        if not is_published(model):
            raise ExportError(f"{config._name_or_path or type(model).__name__} was not published by hf_fsl.")
        noted = config.hf_fsl
        if noted["dense"]:
            raise ExportError(
                f"{config._name_or_path or type(model).__name__}: its head took in a dense layer of the backbone, so "
                "that the embeddings it was fitted on are not to be had again. Publish it with stock=False."
            )
        encoder, modules = _body(model), EmbeddingModules(noted["pooling"])
        name, prompt = noted["backbone"], noted["prompt"]
    if model.main_input_name == "pixel_values":
        backbone = Backbone(encoder, None, image_processor=processor, modules=modules, name=name)
    else:
        if prompt:
            modules.prompts, modules.default_prompt = {"default": prompt}, "default"
        backbone = Backbone(encoder, without_prompt(processor, prompt), modules=modules, name=name)
    backbone.original = False  # it may have been adapted before it was published
    return backbone


def _body(model: Any) -> nn.Module:
    bodies = {family.body for family in FAMILIES.values() if family.architecture == type(model).__name__}
    if not bodies:
        raise ExportError(f"{type(model).__name__} is none of the stock classes that hf_fsl publishes.")
    body: nn.Module = getattr(model, bodies.pop())
    return body
