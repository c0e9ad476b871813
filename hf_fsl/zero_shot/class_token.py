"""The last layer of CLIP's image tower for the class token alone, which is all that the image embedding is made of.

Keys and values of all patches are needed, but query, attention output and feed-forward of the first token only: of the
12 d² multiplications a token costs in a layer, 10 d² are saved, and the embedding stays what it was.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hf_fsl.zero_shot.first_token import computing, watched


def class_token_only(model: Any) -> Any:
    """A view of a model whose image tower's last layer computes the class token alone, where it is CLIP's; else the
    model itself."""
    place = _last_layer(model)
    return model if place is None else computing(model, place, _forward)


def _last_layer(model: Any) -> str | None:
    tower: Any = getattr(model, "vision_model", None)
    if (
        type(tower).__name__ != "CLIPVisionModel"
        or not type(tower).__module__.startswith("transformers.")  # remote code may take the name
        or tower.config._attn_implementation != "sdpa"
        or model.training
        or watched(tower.encoder.layers[-1])
    ):
        return None
    return f"vision_model.encoder.layers.{len(tower.encoder.layers) - 1}"


def _forward(layer: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
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
