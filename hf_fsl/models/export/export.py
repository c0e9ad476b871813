"""From a backbone and a head to a model to publish: a stock class where the head folds, else a class of hf_fsl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel

import hf_fsl
from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.backbones.texts import prompt_tokens, tokenize
from hf_fsl.models.export.stock import CannotFold, ExportError, build_stock
from hf_fsl.models.export.towers import Tower, linear_dense, published_processor, tower_of
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.configuration_few_shot import FewShotConfig
from hf_fsl.models.published.linear_head import LinearHead
from hf_fsl.models.published.modeling_few_shot import (
    ACTIVATIONS,
    FewShotForImageClassification,
    FewShotForSequenceClassification,
)


@dataclass(frozen=True)
class Exported:
    """A model that can be published, the label names in its config."""

    model: Any
    processor: Any
    """Its tokenizer or image processor."""
    stock: bool
    """Whether it is of a class of transformers."""
    reason: str
    """Why it is, or is not, as a sentence."""


def export_model(
    backbone: Backbone,
    head: LinearHead | CacheHead,
    label_names: Sequence[str],
    *,
    stock: bool | None = None,
    modality: Literal["text", "image"] | None = None,
    temperature: float | None = None,
    refusal_threshold: float | None = None,
) -> Exported:
    """Makes the model whose logits are ``head(backbone.encode(inputs))``.

    Example::

        head = LinearHead(weight, bias)  # (C, D) and (C,), over backbone.encode
        exported = export_model(backbone, head, ["cat", "dog"])
        exported.model.save_pretrained(folder)
        exported.processor.save_pretrained(folder)

    Args:
        backbone: it is left as it is; the model gets copies of its weights.
        head: without batch dimensions, over the embeddings of ``backbone.encode``.
        label_names: C names, in the order of the head's classes.
        stock: None: a stock class where the head folds exactly, else hf_fsl's own; True: a stock class or an error;
            False: hf_fsl's own.
        modality: of the inputs that the head was fitted on; None: images where the backbone takes images.
        temperature, refusal_threshold: noted in the config. The temperature is in the head already.

    Raises:
        ExportError: names that do not fit the head, an encoder that cannot be published, or ``stock=True`` and a
            head that does not fold.
    """
    names = _checked_names(head, label_names)
    tower = tower_of(backbone, modality)
    notes = {"logit_temperature": temperature, "refusal_threshold": refusal_threshold}
    reason = "A class of hf_fsl was asked for."
    if stock is not False:
        try:
            model = _stock_model(backbone, tower, head)
        except CannotFold as why:
            reason = str(why)
            if stock:
                raise ExportError(f"stock=True, and the head does not fold into a stock class: {reason}") from why
        else:
            _describe(model, backbone, tower, names, notes)
            reason = f"The head folds exactly into {type(model).__name__}."
            return Exported(model, published_processor(backbone, tower.modality), True, reason)
    model = _few_shot_model(backbone, tower, head, **_labels(names), **notes)
    return Exported(model, published_processor(backbone, tower.modality), False, reason)


def _stock_model(backbone: Backbone, tower: Tower, head: LinearHead | CacheHead) -> Any:
    if isinstance(head, CacheHead):
        raise CannotFold("A key-value cache is not linear in the embeddings.")
    if tower.normalize or not head.transform.linear:
        whose = "The backbone's embeddings are" if tower.normalize else "The head's features are"
        raise CannotFold(f"{whose} L2-normalised, which no stock class does.")
    dense = linear_dense(tower.dense)
    if dense is None:
        raise CannotFold("The backbone has a dense layer with an activation after its pooling.")
    if tower.pooling == "mean" and tower.modality == "text" and not backbone.modules.include_prompt:
        raise CannotFold("The backbone leaves its prompt out of the mean, which no stock class does.")
    weight, bias = _behind(dense, head.folded())
    return build_stock(tower.model, tower.pooling, weight, bias)


def _behind(dense: list[Any], head: LinearHead) -> tuple[Tensor, Tensor]:
    """The head over what comes before the linear layers: W A, b + W a."""
    weight, bias = head.weight.float().cpu(), head.bias.float().cpu()
    for layer in reversed(dense):
        if layer.bias is not None:
            bias = bias + weight @ layer.bias.detach().float().cpu()
        weight = weight @ layer.weight.detach().float().cpu()
    return weight, bias


def _few_shot_model(backbone: Backbone, tower: Tower, head: LinearHead | CacheHead, **settings: Any) -> Any:
    """A model of hf_fsl's own class with copies of the tower's and the head's weights.

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
    ids = tokenize(tokenizer, ["a"], None)[0]
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
    tensors: dict[str, Any] = {"centre": transform.centre, "projection": transform.projection}
    names = (
        ("keys", "values", "prior", "alpha", "beta", "scale") if isinstance(head, CacheHead) else ("weight", "bias")
    )
    tensors |= {name: torch.as_tensor(getattr(head, name)) for name in names}
    return {name: value for name, value in tensors.items() if value is not None}


def _labels(names: list[str]) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": "single_label_classification",
    }


def _describe(model: Any, backbone: Backbone, tower: Tower, names: list[str], notes: dict[str, Any]) -> None:
    """Label names, and what :func:`backbone_of` needs to know of a stock model."""
    for name, value in _labels(names).items():
        setattr(model.config, name, value)
    model.config.hf_fsl = {
        "version": hf_fsl.__version__,
        "backbone": backbone.name,
        "pooling": tower.pooling,
        "dense": len(tower.dense),
        "prompt": backbone.modules.prompt(None) if tower.modality == "text" else "",
        **notes,
    }
    if tower.modality == "text" and model.config.pad_token_id is None:
        model.config.pad_token_id = backbone.tokenizer.pad_token_id


def _checked_names(head: LinearHead | CacheHead, label_names: Sequence[str]) -> list[str]:
    names = [str(name) for name in label_names]
    if isinstance(head, LinearHead) and head.weight.ndim != 2 or isinstance(head, CacheHead) and head.keys.ndim != 2:
        raise ExportError("A head that is published has no batch dimensions; take one episode's head.")
    if len(names) != head.num_classes:
        raise ExportError(f"The head has {head.num_classes} classes, and there are {len(names)} label names.")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ExportError(f"Label names must differ; more than once: {', '.join(twice)}.")
    return names
