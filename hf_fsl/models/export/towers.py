"""What of a backbone is published: the tower that embeds inputs of one kind, and its tokenizer or image processor."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from tokenizers import normalizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.backbones.images import image_inputs, image_pooling, poolable
from hf_fsl.models.backbones.texts import padded_length
from hf_fsl.models.export.stock import ExportError
from hf_fsl.models.published.pooling import Pooling


@dataclass(frozen=True)
class Tower:
    """``encoder -> pooling -> dense layers -> L2-normalisation``: the embeddings of a backbone for one modality.

    A dual encoder's projection is the first dense layer, so that its other tower need not be published.
    """

    model: Any
    modality: Literal["text", "image"]
    pooling: Pooling
    dense: tuple[nn.Module, ...]
    normalize: bool
    leading_tokens: int = 1
    """Before the patches of a picture."""


def tower_of(backbone: Backbone, modality: Literal["text", "image"] | None = None) -> Tower:
    """The tower that a backbone encodes with.

    Args:
        modality: None: images where the backbone takes images, else texts.

    Raises:
        ExportError: the backbone has no such tower, or one that is more than encoder and projection.
    """
    if modality is None:
        modality = "text" if backbone.image_processor is None else "image"
    if (backbone.tokenizer if modality == "text" else backbone.image_processor) is None:
        raise ExportError(f"{backbone.name} encodes no {modality}s. Export the modality that the head was fitted on.")
    modules, model = backbone.modules, backbone.model
    if modules.pooling is None and hasattr(model, f"get_{modality}_features"):
        if modality == "text" and padded_length(model) is not None:
            raise ExportError(
                f"{backbone.name} embeds texts padded to a fixed length, which the text-classification pipeline does "
                "not do. Fit the head on another text encoder."
            )
        encoder, projection = _tower_of_two(backbone, modality)
        return Tower(encoder, modality, "pooler", (*projection, *modules.dense), modules.normalize)
    if modality == "text":
        return Tower(model, modality, modules.pooling or "mean", tuple(modules.dense), modules.normalize)
    dtype: Any = model.dtype
    pixels = backbone.pixels([Image.linear_gradient("L")]).to(backbone.device, dtype)
    with torch.inference_mode():
        output = model(**image_inputs(model, pixels))
    pooling = modules.pooling or image_pooling(model.config, output, pixels)
    _, leading = poolable(model.config, output, pixels, pooling)
    leading = leading if modules.leading_tokens is None else modules.leading_tokens
    return Tower(model, modality, pooling, tuple(modules.dense), modules.normalize, leading)


def linear_dense(layers: tuple[nn.Module, ...]) -> list[nn.Linear] | None:
    """The linear maps that dense layers are, in order; None where an activation makes them more."""
    parts = [part for layer in layers for part in (layer if isinstance(layer, nn.Sequential) else [layer])]
    maps = [part for part in parts if not isinstance(part, nn.Identity)]
    linear = [part for part in maps if isinstance(part, nn.Linear)]
    return linear if len(linear) == len(maps) else None


def published_processor(backbone: Backbone, modality: Literal["text", "image"]) -> Any:
    """A copy that cuts texts where the backbone does, pads on the right, and puts the default prompt before each.

    Raises:
        ExportError: there is a prompt, and the tokenizer is not one of the tokenizers library.
    """
    if modality == "image":
        return copy.deepcopy(backbone.image_processor)
    tokenizer = copy.deepcopy(backbone.tokenizer)
    prompt = backbone.modules.prompt(None)
    if prompt or backbone.modules.lower_case:
        tokenizer = _with_prompt(tokenizer, prompt)
        probes = ["A probe", "two, in words"]
        if tokenizer(probes)["input_ids"] != backbone.tokenizer([prompt + probe for probe in probes])["input_ids"]:
            raise ExportError(
                f"{type(backbone.tokenizer).__name__} with the prompt {prompt!r:.60} built in gives other tokens than "
                "texts with the prompt before them. Fit the head on embeddings without a prompt."
            )
    if backbone.token_limit is not None:
        tokenizer.model_max_length = backbone.token_limit
    tokenizer.padding_side = "right"
    return tokenizer


def _tower_of_two(backbone: Backbone, modality: str) -> tuple[Any, tuple[nn.Module, ...]]:
    """Encoder and projection of a dual encoder, which must give what the whole model gives."""
    whole: Any = backbone.model
    encoder = getattr(whole, "vision_model" if modality == "image" else "text_model", None)
    projection = getattr(whole, "visual_projection" if modality == "image" else "text_projection", None)
    inputs = _probe(backbone, modality)
    layers = () if projection is None else (projection,)
    try:
        with torch.inference_mode():
            expected = getattr(whole, f"get_{modality}_features")(**inputs)
            expected = expected if isinstance(expected, Tensor) else expected.pooler_output
            embedding = encoder(**inputs).pooler_output.flatten(1)  # type: ignore[misc]  # None is caught below
            for layer in layers:
                embedding = layer(embedding)
            same = torch.allclose(embedding, expected, atol=1e-5, rtol=1e-3)
    except (AttributeError, RuntimeError, TypeError):
        same = False
    if not same:
        raise ExportError(
            f"{type(whole).__name__} embeds {modality}s by more than an encoder's pooler and a projection; a model of "
            "its tower alone would give other embeddings. Choose another backbone."
        )
    return encoder, layers


def _probe(backbone: Backbone, modality: str) -> dict[str, Tensor]:
    """One input on which the tower is compared with the whole."""
    model: Any = backbone.model
    if modality == "image":
        return {"pixel_values": backbone.pixels([Image.radial_gradient("L")]).to(model.device, model.dtype)}
    ids = backbone.tokenizer(["a probe"], return_tensors="pt")["input_ids"].to(model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _with_prompt(tokenizer: Any, prompt: str) -> Any:
    """A tokenizer of no model's own class: those make their normaliser anew when they are loaded."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ExportError(
            f"{type(tokenizer).__name__} cannot put the backbone's prompt {prompt!r:.60} before texts. Fit the head "
            "on embeddings without a prompt."
        )
    first = [normalizers.Prepend(prompt)] if prompt else []
    before = [backend.normalizer] if backend.normalizer is not None else []
    backend.normalizer = normalizers.Sequence([*first, *before])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=tokenizer.model_input_names,
        **tokenizer.special_tokens_map,
    )
