"""The tokenizer of a repository, which must be one that was saved there."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer

NO_VOCABULARY = "it has no tokenizer, or one without words. Save the model's tokenizer beside its weights."


def load_tokenizer(model_name_or_path: str, *, trust_remote_code: bool = False, **source: Any) -> Any:
    """``AutoTokenizer.from_pretrained``.

    Raises:
        OSError, ValueError: there is none, or none that knows a word.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, trust_remote_code=trust_remote_code, **source)
    if not has_vocabulary(tokenizer):
        raise ValueError(NO_VOCABULARY)
    return tokenizer


def has_vocabulary(tokenizer: Any) -> bool:
    """Whether there is more in it than special tokens.

    For a repository without tokenizer files transformers 5 makes a tokenizer up, to which every word is unknown.
    """
    return len(tokenizer) > len(set(tokenizer.all_special_ids))
