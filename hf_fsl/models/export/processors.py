"""The tokenizer or image processor that is published with a model: it does by itself what ``Backbone.encode`` does."""

from __future__ import annotations

import copy
from typing import Any, Literal

from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from hf_fsl.models.backbones import Backbone
from hf_fsl.models.export.towers import ExportError


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


def without_prompt(tokenizer: Any, prompt: str) -> Any:
    """A copy of a published tokenizer that leaves the prompt to ``encode``."""
    tokenizer = copy.deepcopy(tokenizer)
    if prompt:
        steps = list(tokenizer.backend_tokenizer.normalizer or [])
        if not steps or not isinstance(steps[0], normalizers.Prepend) or steps[0].prepend != prompt:
            raise ExportError(f"The tokenizer does not put the prompt {prompt!r:.60} before texts, as the model says.")
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps[1:])
    return tokenizer


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
