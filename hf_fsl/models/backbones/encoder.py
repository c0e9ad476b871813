"""The parts of an encoder, from the Hub or a folder."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModel

from hf_fsl.models.backbones.errors import BackboneError
from hf_fsl.models.backbones.tokenizer import load_tokenizer
from hf_fsl.models.backbones.weights import load_weights, loading


def load_parts(
    model_name_or_path: str, *, dtype: torch.dtype | str, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[Any, Any, Any]:
    """Model, tokenizer (None of an encoder of images), image processor (None of an encoder of texts).

    Raises:
        BackboneError: one of them cannot be loaded.
    """
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    with loading(BackboneError, model_name_or_path, revision, "as an encoder"):
        model = load_encoder(model_name_or_path, dtype=dtype, **source)
        pixels = model.main_input_name == "pixel_values"
        vision = pixels or hasattr(model.config, "vision_config")
        text = not pixels or hasattr(model.config, "text_config")
        tokenizer = load_tokenizer(model_name_or_path, **source) if text else None
        images = AutoImageProcessor.from_pretrained(model_name_or_path, **source) if vision else None
    return model, tokenizer, images


def load_encoder(model_name_or_path: str, **options: Any) -> Any:
    """``AutoModel.from_pretrained``, without a pooler that the checkpoint has no weights for.

    Raises:
        BackboneError: it lacks other weights; embeddings would be random.
        ValueError: see :func:`~hf_fsl.models.backbones.weights.load_weights`.
    """
    model, missing = load_weights(AutoModel, model_name_or_path, **options)
    _drop_random_pooler(model, missing, model_name_or_path)
    return model


def _drop_random_pooler(model: Any, missing: set[str], name: str) -> None:
    """A pooler the checkpoint has no weights for would give random embeddings: it goes, or the model is refused."""
    pooler = {key for key in missing if key.startswith("pooler.")}
    if missing - pooler:
        raise BackboneError(
            f"{name} has no weights for {', '.join(sorted(missing - pooler)[:3])}; its embeddings would be random. "
            "Choose a checkpoint of the whole encoder."
        )
    if pooler:
        model.pooler = None
