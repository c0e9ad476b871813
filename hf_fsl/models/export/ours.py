"""A head that folds into no stock class, in a model of ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

import hf_fsl
from hf_fsl.models.backbones import Backbone
from hf_fsl.models.backbones.texts import prompt_tokens, tokenise
from hf_fsl.models.export.towers import ExportError, Tower
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.configuration_few_shot import FewShotConfig
from hf_fsl.models.published.linear_head import LinearHead
from hf_fsl.models.published.modeling_few_shot import (
    ACTIVATIONS,
    FewShotForImageClassification,
    FewShotForSequenceClassification,
)


def build_ours(backbone: Backbone, tower: Tower, head: LinearHead | CacheHead, **settings: Any) -> Any:
    """The model of ours with copies of the tower's and the head's weights.

    Args:
        settings: more of :class:`FewShotConfig`: label names, temperature, ….

    Raises:
        ExportError: an encoder that transformers alone cannot build, or a dense layer that the config cannot say.
    """
    encoder = tower.model
    if not type(encoder).__module__.startswith("transformers.models."):
        raise ExportError(
            f"{type(encoder).__name__} is no encoder of transformers' own, so that the published model could not be "
            "loaded by it. Merge an adapter first (merge_and_unload); remote code cannot be published again."
        )
    encoder_config = type(encoder.config).from_dict(encoder.config.to_dict())
    with torch.device("meta"):
        again = type(AutoModel.from_config(encoder_config, trust_remote_code=False))
    if again is not type(encoder):
        raise ExportError(f"AutoModel makes a {again.__name__} of this config, and the encoder is a {type(encoder)}.")
    transform = head.transform
    weights = head.keys if isinstance(head, CacheHead) else head.weight
    centred = transform.centre if transform.centre is not None else weights[0]
    config = FewShotConfig(
        backbone_config=encoder_config,
        modality=tower.modality,
        pooling=tower.pooling,
        leading_tokens=tower.leading_tokens,
        dense=[_described(layer) for layer in tower.dense],
        normalize_embeddings=tower.normalize,
        head="cache" if isinstance(head, CacheHead) else "linear",
        embedding_size=transform.projection.shape[0] if transform.projection is not None else centred.shape[0],
        feature_size=weights.shape[1],
        centre=transform.centre is not None,
        projection=transform.projection is not None,
        normalize_features=transform.normalize,
        cache_size=len(head.keys) if isinstance(head, CacheHead) else 0,
        backbone_name=backbone.name,
        hf_fsl_version=hf_fsl.__version__,
        dtype=encoder.dtype,
        **(_text_settings(backbone) if tower.modality == "text" else {}),
        **settings,
    )
    kind = FewShotForSequenceClassification if tower.modality == "text" else FewShotForImageClassification
    model = kind(config).to(encoder.dtype).eval()
    model.head.float()
    state = {f"backbone.{name}": value for name, value in encoder.state_dict().items()}
    for number, layer in enumerate(tower.dense):
        linear = _linear_of(layer)
        state |= {f"dense.{number}.0.{name}": value for name, value in linear.state_dict().items()}
    state |= {f"head.{name}": value for name, value in _tensors(head).items()}
    missing = model.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise ExportError(f"The backbone has no weights for {', '.join(missing[:3])}.")
    return model


def _text_settings(backbone: Backbone) -> dict[str, Any]:
    tokenizer, modules, prompt = backbone.tokenizer, backbone.modules, backbone.modules.prompt(None)
    limit = backbone.token_limit
    special = set(tokenizer.all_special_ids)
    ids = tokenise(tokenizer, ["a"], None)[0]
    closing = next((count for count, token in enumerate(reversed(ids)) if token not in special), 0)
    return {
        "max_tokens": limit,
        "closing_tokens": closing,
        "prompt": prompt,
        "skipped_tokens": 0 if modules.include_prompt else prompt_tokens(tokenizer, prompt, limit),
        "pad_token_id": tokenizer.pad_token_id,
    }


def _linear_of(layer: nn.Module) -> nn.Linear:
    parts = list(layer) if isinstance(layer, nn.Sequential) else [layer]
    if not 1 <= len(parts) <= 2 or not isinstance(parts[0], nn.Linear):
        raise ExportError(f"A dense layer is a linear map and an activation; this backbone has {layer}.")
    return parts[0]


def _described(layer: nn.Module) -> dict[str, Any]:
    linear = _linear_of(layer)
    activation = type(layer[1]).__name__ if isinstance(layer, nn.Sequential) and len(layer) > 1 else "Identity"
    if activation not in ACTIVATIONS:
        raise ExportError(f"The activation {activation} of a dense layer is not one of {', '.join(ACTIVATIONS)}.")
    return {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
        "activation": activation,
    }


def _tensors(head: LinearHead | CacheHead) -> dict[str, Tensor]:
    transform = head.transform
    found: dict[str, Any] = {"centre": transform.centre, "projection": transform.projection}
    names = (
        ("keys", "values", "prior", "alpha", "beta", "scale") if isinstance(head, CacheHead) else ("weight", "bias")
    )
    found |= {name: torch.as_tensor(getattr(head, name)) for name in names}
    return {name: value for name, value in found.items() if value is not None}
