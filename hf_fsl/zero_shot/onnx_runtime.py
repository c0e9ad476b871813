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
from torch import Tensor

from hf_fsl.models.templates import ZeroShotError
from hf_fsl.zero_shot.last_layer import first_token_only
from hf_fsl.zero_shot.quantization import fit_for_int8, float_products


class OnnxClassifier:
    """Model inputs -> logits by ONNX Runtime.

    Args:
        model: a sequence classification model; it is exported as it stands and not needed afterwards.
        tokenizer: its ``model_input_names`` are the model's inputs.
        precision: ``int8`` stores weights as int8, a scale for each output, and quantises activations as they come;
            :mod:`hf_fsl.zero_shot.quantization` says how both are made fit for it.

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
