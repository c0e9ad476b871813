"""The last layer of CLIP's image tower for the class token alone, which is all that the image embedding is made of.

Keys and values of all patches are needed, but query, attention output and feed-forward of the first token only: of the
12 d² multiplications a token costs in a layer, 10 d² are saved, and the embedding stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hf_fsl.zero_shot.first_token import computing, watched


@contextmanager
def class_token_only(model: Any) -> Iterator[bool]:
    """Within the block the image tower's last layer computes the class token alone, where it is CLIP's.

    Gives whether it does. The model is left as it was.
    """
    with computing(_last_layer(model), _forward) as used:
        yield used


def _last_layer(model: Any) -> Any:
    tower: Any = getattr(model, "vision_model", None)
    if (
        type(tower).__name__ != "CLIPVisionModel"
        or not type(tower).__module__.startswith("transformers.")  # remote code may take the name
        or tower.config._attn_implementation != "sdpa"
        or model.training
        or watched(tower.encoder.layers[-1])
    ):
        return None
    return tower.encoder.layers[-1]


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
