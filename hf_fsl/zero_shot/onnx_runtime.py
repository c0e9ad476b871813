"""A classifier run by ONNX Runtime, in float32 or with int8 matrix products: faster on CPUs."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_fsl.models.templates import ZeroShotError
from hf_fsl.zero_shot.last_layer import computing, first_token_only, watched


class OnnxClassifier:
    """Model inputs -> logits by ONNX Runtime.

    Args:
        model: a sequence classification model; it is exported as it stands and not needed afterwards.
        tokenizer: its ``model_input_names`` are the model's inputs.
        precision: ``int8`` stores weights as int8, a scale for each output, and quantizes activations as they come;
            :func:`fit_for_int8` says how both are made fit for it.

    Raises:
        ZeroShotError: ONNX Runtime is not installed, or the model cannot be exported.
    """

    def __init__(self, model: Any, tokenizer: Any, precision: Literal["float32", "int8"]) -> None:
        try:
            import onnxruntime
            import onnxscript  # noqa: F401
            from onnxruntime.quantization import QuantType, quantize_dynamic
        except ImportError as error:
            raise ZeroShotError(
                f"ONNX Runtime is needed for this runtime ({error}). Install it: pip install 'hf_fsl[onnx]'"
            ) from error
        if model.device.type != "cpu" or model.dtype != torch.float32:
            raise ZeroShotError(
                f"ONNX Runtime takes float32 models on a CPU here; got {model.dtype} on {model.device}."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            exported = first_token_only(model)
            if precision == "int8":
                exported = fit_for_int8(exported, tokenizer)
            _export(exported, tokenizer.model_input_names, path)
            if precision == "int8":
                exact, path = path, Path(folder) / "int8.onnx"
                quantize_dynamic(  # embeddings are read, not multiplied: int8 of them would gain no time
                    exact, path, ["MatMul", "Gemm"], weight_type=QuantType.QInt8, per_channel=True,
                    nodes_to_exclude=float_products(exact),
                )  # fmt: skip
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = [given.name for given in self.session.get_inputs()]

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits ``(B, K)``."""
        given = {"attention_mask": torch.ones_like(inputs["input_ids"]), **inputs}
        return torch.from_numpy(self.session.run(None, {name: given[name].numpy() for name in self.names})[0])


def _export(model: Any, names: Sequence[str], path: Path) -> None:
    # A tensor for each input: the exporter takes two names of one tensor for one input.
    example = {
        name: torch.zeros(2, 9, dtype=torch.long) if name == "token_type_ids" else torch.ones(2, 9, dtype=torch.long)
        for name in names
    }
    axes = {name: {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")} for name in names}
    try:
        # The exporter warns and prints on every model.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (), path, kwargs=example, dynamic_shapes=axes, output_names=["logits"], dynamo=True,
                external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter raises its own and those of torch.export
        raise ZeroShotError(
            f"This {type(model).__name__} cannot be exported to ONNX: {type(error).__name__}, {str(error)[:200]}. "
            "Use runtime='torch'."
        ) from error


OUTLIERS = 32
"""Channels of a narrowing layer that stay in float32: 2 % of its product where there are 1,536."""
PAIRS = 16
"""Of random texts, by which activations are judged;"""
_TOKENS = 24
"""random tokens of each text."""
_LEAST = 0.01
"""Of a layer's largest channel: none is taken for smaller, whatever the random tokens showed of it."""


def fit_for_int8(model: Any, tokenizer: Any) -> Any:
    """A view of a model whose linear layers compute what they did, in products that int8 does little harm to.

    ONNX Runtime quantizes the activations of a whole batch by one scale. Three things make the most of its 256 steps:

    1. Each token is divided by its largest value, and the product multiplied by it.
    2. Channels whose activations are large are made smaller, and the weights that they meet larger, by the root of
       the ratio of the two (SmoothQuant, Xiao et al. 2023, arXiv:2211.10438).
    3. Where a layer narrows, after the activation function of a feed-forward block, a few channels are far larger
       than the rest: those are left in float32 (as LLM.int8 does, Dettmers et al. 2022, arXiv:2208.07339).

    The products are the same ones. What a channel's activations are is seen on random tokens, so no data is needed.
    """
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
