"""A pipeline of ours for a configured model."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    VisionTextDualEncoderModel,
    pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from hf_fsl.config.sections import ModelConfig
from hf_fsl.models.backbones.encoder import load_encoder
from hf_fsl.models.backbones.tokenizer import NO_VOCABULARY, has_vocabulary
from hf_fsl.models.backbones.weights import load_whole, loading
from hf_fsl.models.templates import ZeroShotError


def load_pipeline(
    kind: type, task: str, model: ModelConfig, device: torch.device | None = None, **options: Any
) -> Any:
    """The pipeline ``kind``, with the model loaded as the stock ``task`` loads it.

    Args:
        device: None: what the stock pipeline chooses.

    Raises:
        ZeroShotError: the model does not load for this task, or ``kind`` cannot work with it.
    """
    with loading(ZeroShotError, model.model_name_or_path, model.revision, f"for {task}"):
        loaded = whole_pipeline(
            task, kind, model.model_name_or_path, model.revision, model.trust_remote_code, dtype=model.dtype,
            # Not ``device=``: in a process group the stock pipeline leaves the model where it was loaded.
            device_map=None if device is None else {"": device},
            **options,
        )  # fmt: skip
        if loaded.tokenizer is not None and not has_vocabulary(loaded.tokenizer):
            raise ValueError(NO_VOCABULARY)
    return loaded


def whole_pipeline(
    task: str,
    kind: Any,
    name: str,
    revision: str | None,
    trust_remote_code: bool,
    *,
    dtype: str = "auto",
    device_map: Any = None,
    **options: Any,
) -> Any:
    """The stock ``pipeline()``, whose model must have all its weights in the repository.

    Args:
        kind: the pipeline's class.
        options: of the pipeline.

    Raises:
        ValueError: weights that are missing, of other shapes, or not finite. Much else, where files are damaged.
    """
    _, stock, _ = PIPELINE_REGISTRY.check_task(task)
    (auto,) = stock["pt"]
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if (
        auto is AutoModelForZeroShotImageClassification
        and AutoConfig.from_pretrained(name, **source).model_type == "vision-text-dual-encoder"
    ):
        auto = VisionTextDualEncoderModel  # which that class does not know
    load = load_encoder if auto is AutoModel else functools.partial(load_whole, auto)
    model = load(name, dtype=dtype, device_map=device_map, **source)
    parts = {part: name for part in ("tokenizer", "image_processor") if getattr(kind, f"_load_{part}")}
    if device_map is not None:
        options["device"] = model.device
    made: Any = pipeline(  # type: ignore[call-overload]
        task, model=model, dtype=dtype, pipeline_class=kind, **parts, **source, **options
    )
    return made
