"""The logits a bundle is verified against: the published weights in float32, held to what the trained model gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from hf_fsl.core.images import as_rgb
from hf_fsl.hub.stranger import logits_one_by_one
from hf_fsl.hub.verify import BundleMismatch, tolerance


def reference_logits(
    model: Any, processor: Any, inputs: Sequence[Any], trained: np.ndarray, device: str = "cpu"
) -> np.ndarray:
    """Runs the model as a stranger will run its bundle: float32, on the CPU, one input at a time.

    The trained model's own logits come from padded batches in the precision of the training, so they only show that
    this is the same model: merging or tokenising gone wrong moves them further than rounding does.

    Args:
        model: the model that was published, adapter merged. It is changed in place: to float32, on the CPU.
        processor: its tokenizer or image processor.
        inputs: texts, pairs of texts, or images.
        trained: ``(N, C)``, what the model gave for these inputs at the end of its training.
        device: type of the device that ``trained`` comes from.

    Returns:
        Logits ``(N, C)``.

    Raises:
        BundleMismatch: they are further from ``trained`` than the precision of the model explains.
    """
    dtype = str(model.dtype).removeprefix("torch.")
    pictures = [as_rgb(value) if isinstance(value, Image.Image) else value for value in inputs]
    logits: np.ndarray = logits_one_by_one(model, processor, pictures).numpy()
    scale = max(1.0, float(np.abs(trained).max()))
    allowed = tolerance(dtype, device) * scale
    difference = float(np.abs(logits - trained).max()) if logits.shape == trained.shape else float("inf")
    # Not "difference > …": that is false for NaN, and a model that gives NaN would pass.
    if not difference <= allowed:
        raise BundleMismatch(
            f"The model to be published gives other logits than it gave in training: largest difference "
            f"{difference:.2e} at scale {scale:.1f}, allowed for {dtype} on {device} is {allowed:.2e}. Its adapter "
            "may not merge into its weights, or its processor may treat single inputs and batches differently."
        )
    return logits
