"""A pipeline of ours for a configured model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import pipeline

from hf_fsl.backbones.tokenizer import WORDLESS, knows_words
from hf_fsl.config import ModelConfig
from hf_fsl.zero_shot.templates import ZeroShotError


def load_pipeline(
    kind: type, task: str, model: ModelConfig, device: torch.device | None = None, **options: Any
) -> Any:
    """The pipeline ``kind``, with the model loaded as the stock ``task`` loads it.

    Args:
        device: None: what the stock pipeline chooses.

    Raises:
        ZeroShotError: the model does not load for this task, or ``kind`` cannot work with it.
    """
    if device is not None:
        # Not ``device=``: in a process group the stock pipeline leaves the model where it was loaded.
        options["device_map"] = {"": device}
    try:
        loaded: Any = pipeline(  # type: ignore[call-overload]
            task,
            model=model.model_name_or_path,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            dtype=model.dtype,
            pipeline_class=kind,
            **options,
        )
    except ZeroShotError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ZeroShotError(f"{model.model_name_or_path} does not load for {task}: {error}") from error
    tokenizer = loaded.tokenizer
    if tokenizer is not None and not knows_words(tokenizer):
        raise ZeroShotError(f"{model.model_name_or_path} does not load for {task}: {WORDLESS}")
    return loaded
