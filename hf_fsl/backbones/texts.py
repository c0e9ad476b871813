"""Texts -> token ids as a text tower wants them: how long, padded how far, and which tokens the prompt takes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from tokenizers import normalizers
from torch import nn

from hf_fsl.backbones.classification import BackboneError

_CHUNK = 4096
"""Texts tokenised at a time."""
_NO_LIMIT = 1_000_000
"""Tokenizers without a limit of their own name a number above this."""


def tokenise(tokenizer: Any, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
    """Token ids of each text, special tokens included, cut at ``max_length``."""
    ids: list[list[int]] = []
    for start in range(0, len(texts), _CHUNK):
        ids += tokenizer(
            list(texts[start : start + _CHUNK]),
            truncation=max_length is not None,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    return ids


def token_limit(model: Any, tokenizer: Any) -> int | None:
    """Tokens a text may have: what tokenizer and position embeddings allow; None where neither sets a limit."""
    positions = getattr(_text_config(model), "max_position_embeddings", None) or 0
    limits = (tokenizer.model_max_length, positions - _first_position(model))
    return min((limit for limit in limits if 0 < limit < _NO_LIMIT), default=None)


def longest_input(model: Any, processor: Any, max_length: int | None) -> int | None:
    """Tokens a text may have: what was asked for, within the limits of tokenizer and model; None for images.

    Raises:
        BackboneError: ``max_length`` is above what the model can take.
    """
    if not hasattr(processor, "model_max_length"):
        return None
    limit = token_limit(model, processor)
    if max_length is not None and limit is not None and max_length > limit:
        raise BackboneError(f"model.max_length={max_length}: the backbone takes at most {limit} tokens. Lower it.")
    return max_length if max_length is not None else limit


def padded_length(model: Any) -> int | None:
    """The length to which every text is padded; None: to the longest of its batch.

    SigLIP takes its embedding from the last position, and has seen nothing but texts padded to the full length.
    """
    config = _text_config(model)
    return int(config.max_position_embeddings) if str(model.config.model_type).startswith("siglip") else None


def prompt_tokens(tokenizer: Any, prompt: str, max_length: int | None) -> int:
    """How many tokens a prompt takes at the start of a text, as sentence-transformers counts them.

    Raises:
        BackboneError: they leave no room for a text.
    """
    if not prompt:
        return 0
    ids = tokenise(tokenizer, [prompt], None)[0]
    count = len(ids) - (ids[-1] in tokenizer.all_special_ids)
    if max_length is not None and count >= max_length:
        raise BackboneError(f"The prompt {prompt!r:.60} takes {count} tokens of {max_length}. Give a shorter one.")
    return count


def lower_cased(tokenizer: Any) -> Any:
    """A copy of the tokenizer that lowers the case of what is no special token.

    Raises:
        BackboneError: the tokenizer is not one of the tokenizers library.
    """
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise BackboneError(f"do_lower_case: {type(tokenizer).__name__} cannot be told to. Choose another backbone.")
    tokenizer = copy.deepcopy(tokenizer)
    before = tokenizer.backend_tokenizer.normalizer
    steps = [normalizers.Lowercase(), *([before] if before is not None else [])]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def _text_config(model: Any) -> Any:
    return getattr(model.config, "text_config", None) or model.config


def _first_position(model: nn.Module) -> int:
    """RoBERTa and its kin count positions from after the padding token's id, so that many of the table are lost."""
    for name, module in model.named_modules():
        padding: Any = getattr(module, "padding_idx", None)
        if name.rpartition(".")[2] == "position_embeddings" and padding is not None:
            return int(padding) + 1
    return 0
