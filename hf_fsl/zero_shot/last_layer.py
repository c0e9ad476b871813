"""The last layer of an encoder of which only the first token is read: the other tokens are not computed there.

That is BERT's (and its kin's) under a sequence classifier, and that of CLIP's image tower. Keys and values of all
tokens are needed, but query, attention output and feed-forward of the first token alone: of the 12 d² multiplications
a token costs in a layer, 10 d² are saved, and the result stays what it was.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

_FIRST_TOKEN_MODELS = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""Model types with BERT's layers whose sequence classifier reads ``hidden[:, 0]``."""


def first_token_only(model: Any) -> Any:
    """A view of a model whose last layer computes the first token alone, where that gives the same result.

    Args:
        model: a sequence classifier, or a dual encoder.

    Returns:
        The view, which shares the weights; the model itself where it reads other tokens too, where somebody watches
        the layer, or in training.
    """
    if model.training:
        return model
    if (place := _bert_layer(model)) is not None:
        return computing(model, place, _bert_forward)
    if (place := _clip_layer(model)) is not None:
        return computing(model, place, _clip_forward)
    return model


def computing(model: Any, place: str, forward: Callable[..., Tensor]) -> Any:
    """A view of a model, its weights shared, in which one module computes ``forward`` instead of its own.

    The model stays as it is, whoever else computes with it at the same time.

    Args:
        place: the module's name in the model.
    """
    view = copy.copy(model)
    own = vars(model).get("forward")
    if isinstance(own, types.MethodType) and own.__self__ is model:
        view.forward = types.MethodType(own.__func__, view)  # a view of a view
    if place:
        name, _, rest = place.partition(".")
        view._modules = {**model._modules, name: computing(model._modules[name], rest, forward)}
    else:
        view.forward = types.MethodType(forward, view)
    return view


def _bert_layer(model: Any) -> str | None:
    config = model.config
    encoder = getattr(getattr(model, model.base_model_prefix, None), "encoder", None)
    layers = getattr(encoder, "layer", None)
    if (
        config.model_type not in _FIRST_TOKEN_MODELS
        or not type(model).__name__.endswith("ForSequenceClassification")
        # Remote code may call itself "bert" and do something else.
        or not type(model).__module__.startswith("transformers.")
        or config._attn_implementation != "sdpa"
        or getattr(config, "is_decoder", False)
        or getattr(config, "add_cross_attention", False)
        or not isinstance(layers, nn.ModuleList)
        or not hasattr(layers[-1], "feed_forward_chunk")
        or watched(layers[-1])
    ):
        return None
    return f"{model.base_model_prefix}.encoder.layer.{len(layers) - 1}"


def _clip_layer(model: Any) -> str | None:
    tower: Any = getattr(model, "vision_model", None)
    if (
        type(tower).__name__ != "CLIPVisionModel"
        or not type(tower).__module__.startswith("transformers.")  # remote code may take the name
        or tower.config._attn_implementation != "sdpa"
        or watched(tower.encoder.layers[-1])
    ):
        return None
    return f"vision_model.encoder.layers.{len(tower.encoder.layers) - 1}"


def watched(layer: Any) -> bool:
    """Whether somebody else has wrapped the layer, or hooked into it or a part of it: it is computed as it is."""
    return any(
        "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks for module in layer.modules()
    )


def _bert_forward(layer: Any, hidden: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    attention, first = layer.attention.self, hidden[:, :1]
    heads = (attention.num_attention_heads, attention.attention_head_size)
    query, key, value = (
        projection(states).unflatten(-1, heads).transpose(1, 2)
        for projection, states in ((attention.query, first), (attention.key, hidden), (attention.value, hidden))
    )
    mask = attention_mask[:, :, :1] if attention_mask is not None else None
    attended = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attention.scaling)
    output = layer.attention.output(attended.transpose(1, 2).flatten(2), first)
    result: Tensor = layer.feed_forward_chunk(output)
    return result


def _clip_forward(layer: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    attention, normed = layer.self_attn, layer.layer_norm1(hidden_states)
    query, key, value = (
        projection(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for projection, states in (
            (attention.q_proj, normed[:, :1]),
            (attention.k_proj, normed),
            (attention.v_proj, normed),
        )
    )
    attended = scaled_dot_product_attention(query, key, value, scale=attention.scale)
    first = hidden_states[:, :1] + attention.out_proj(attended.transpose(1, 2).flatten(2))
    output: Tensor = first + layer.mlp(layer.layer_norm2(first))
    return output
