"""Linear layers rewritten so that int8 products of them come out nearly exact.

ONNX Runtime quantises the activations of a whole batch by one scale. Three things make the most of its 256 steps:

1. Each token is divided by its largest value, and the product multiplied by it.
2. Channels whose activations are large are made smaller, and the weights that they meet larger, by the root of
   the ratio of the two (SmoothQuant, Xiao et al. 2023, arXiv:2211.10438).
3. Where a layer narrows, after the activation function of a feed-forward block, a few channels are far larger than
   the rest: those are left in float32 (as LLM.int8 does, Dettmers et al. 2022, arXiv:2208.07339).

The products are the same ones. What a channel's activations are is seen on random tokens, so no data is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_fsl.zero_shot.last_layer import computing, watched

OUTLIERS = 32
"""Channels of a narrowing layer that stay in float32: 2 % of its product where there are 1,536."""
PAIRS = 16
"""Of random texts, by which activations are judged;"""
_TOKENS = 24
"""random tokens of each text."""
_LEAST = 0.01
"""Of a layer's largest channel: none is taken for smaller, whatever the random tokens showed of it."""


def fit_for_int8(model: Any, tokenizer: Any) -> Any:
    """A view of a model whose linear layers compute what they did, in products that int8 does little harm to."""
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and not watched(module)
    }
    # A decoder that was told of no padding takes one text at a time.
    padded = tokenizer.pad_token is not None and model.config.pad_token_id is not None
    largest = largest_inputs(model, list(layers.values()), random_pairs(tokenizer, PAIRS if padded else 1))
    for name, layer in layers.items():
        if layer in largest:
            model = computing(model, name, _Int8Ready(layer, largest[layer]))
    return model


def random_pairs(tokenizer: Any, count: int = PAIRS) -> dict[str, Tensor]:
    """Pairs of texts out of random tokens, as model inputs; the same every time."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(len(tokenizer), (2, count, _TOKENS), generator=rng)
    texts = [tokenizer.batch_decode(half, skip_special_tokens=True) for half in ids.tolist()]
    return dict(tokenizer(*texts, padding=count > 1, truncation=True, return_tensors="pt"))


def largest_inputs(model: Any, layers: list[nn.Linear], inputs: dict[str, Tensor]) -> dict[nn.Linear, Tensor]:
    """Of each layer that the model calls: the largest absolute value of each of its input channels, ``(d_in,)``."""
    found: dict[nn.Linear, Tensor] = {}

    def look(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Linear)
        largest = given[0].detach().abs().flatten(0, -2).amax(0)
        found[layer] = torch.maximum(found.get(layer, largest), largest)

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with torch.inference_mode():
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


class _Int8Ready:
    """The forward pass of a linear layer; see the module."""

    def __init__(self, layer: nn.Linear, largest: Tensor) -> None:
        weight = layer.weight.detach()
        seen, met = (values.clamp(min=_LEAST * float(values.max())) for values in (largest, weight.abs().amax(0)))
        scale = (seen / met).sqrt()
        self.outliers = torch.empty(0, dtype=torch.long)
        if layer.in_features > layer.out_features and layer.in_features > 4 * OUTLIERS:
            self.outliers = (seen / scale).topk(OUTLIERS).indices.sort().values
        self.kept = weight[:, self.outliers].T.contiguous()
        self.shrink, grown = 1 / scale, weight * scale
        self.shrink[self.outliers], grown[:, self.outliers] = 0, 0
        self.weight = grown.T.contiguous()

    def in_one_range(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens whose largest value is 1, and what each was divided by."""
        even = inputs * self.shrink
        largest = torch.maximum(even.amax(-1, keepdim=True), -even.amin(-1, keepdim=True))
        largest = largest.clamp(min=torch.finfo(inputs.dtype).tiny)
        return even * (1 / largest), largest

    def __call__(self, layer: nn.Linear, inputs: Tensor) -> Tensor:
        tokens, largest = self.in_one_range(inputs)
        product = tokens @ self.weight * largest
        if len(self.outliers):
            product = product + inputs.index_select(-1, self.outliers) @ self.kept
        return product if layer.bias is None else product + layer.bias


def float_products(path: Path) -> list[str]:
    """Names of the matrix products of an exported model that are to stay in float32: those of the outliers."""
    import onnx

    nodes = onnx.load(path).graph.node
    picked = {name for node in nodes if node.op_type == "Gather" for name in node.output}
    return [node.name for node in nodes if node.op_type == "MatMul" and node.input[0] in picked]
