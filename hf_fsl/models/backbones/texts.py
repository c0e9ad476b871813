"""Texts -> token ids: how long they may be, what is cut of them, and the padded batches that they make."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from tokenizers import normalizers
from torch import Tensor, nn

from hf_fsl.core.measurement import TruncationRecord
from hf_fsl.models.backbones.errors import BackboneError

_CHUNK = 4096
"""Texts tokenised at a time."""
CALLING = threading.RLock()
"""Held while a tokenizer is called, or its settings are changed."""
_NO_LIMIT = 1_000_000
"""Tokenizers without a limit of their own name a number above this."""


def call_tokenizer(tokenizer: Any, *texts: Any, **options: Any) -> Any:
    """What a tokenizer gives, one call at a time: it holds how its last call cut and padded, which another thread's
    call would change under it."""
    with CALLING:
        return tokenizer(*texts, **options)


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
    """Token ids of each text, special tokens included, cut at ``max_length``."""
    ids: list[list[int]] = []
    for start in range(0, len(texts), _CHUNK):
        ids += call_tokenizer(
            tokenizer,
            list(texts[start : start + _CHUNK]),
            truncation=max_length is not None,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    return ids


def truncation(
    tokenizer: Any, columns: Sequence[Sequence[str]], lengths: Sequence[int], limit: int | None
) -> TruncationRecord:
    """How much of texts is cut off.

    Args:
        columns: the texts; of pairs two.
        lengths: tokens of each text, or pair, after it was cut.
        limit: what it was cut at.
    """
    full = [row for row, length in enumerate(lengths) if limit is not None and length >= limit]
    lost: list[int] = []
    for start in range(0, len(full), _CHUNK):
        rows = full[start : start + _CHUNK]
        chunk = [[column[row] for row in rows] for column in columns]
        whole = call_tokenizer(
            tokenizer, *chunk, truncation=False, return_attention_mask=False, return_token_type_ids=False,
            verbose=False,
        )["input_ids"]  # fmt: skip
        lost += [len(ids) - lengths[row] for row, ids in zip(rows, whole, strict=True)]
    return TruncationRecord(
        limit=limit,
        texts=len(lengths),
        cut_texts=sum(beyond > 0 for beyond in lost),
        tokens=sum(lengths) + sum(lost),
        cut_tokens=sum(lost),
    )


def warn_of_cut(cut: TruncationRecord, said: set[str] | None = None) -> None:
    """Says in a warning that texts were cut, if any were.

    Args:
        said: of an encoder, which says it once.
    """
    if cut.cut_tokens and "cut" not in (said or ()):
        if said is not None:
            said.add("cut")
        warnings.warn(
            f"{cut.cut_texts} of {cut.texts} texts are longer than the {cut.limit} tokens that are read: "
            f"{cut.cut_tokens / cut.tokens:.1%} of all tokens are cut off. Where the rest matters, split the "
            "texts, or choose a model that reads more.",
            stacklevel=3,
        )


def token_limit(model: Any, tokenizer: Any, asked: int | None = None) -> int | None:
    """Tokens a text may have, special tokens included: ``asked``, else the tokenizer's own limit, and never more than
    the model has positions; None where none of them sets a limit.
    """
    of_tokenizer = tokenizer.model_max_length if tokenizer.model_max_length < _NO_LIMIT else None
    wanted = asked if asked is not None else of_tokenizer
    return min((limit for limit in (wanted, position_limit(model)) if limit is not None), default=None)


def position_limit(model: Any) -> int | None:
    """Positions that the text tower has embeddings for; None where it has no such limit.

    RoBERTa and its kin count them from after the padding token's id, so that many of the table are lost.
    """
    positions: Any = getattr(_text_config(model), "max_position_embeddings", None)
    return int(positions) - _first_position(model) if positions and positions > 0 else None


def check_max_length(model: Any, max_length: int | None) -> None:
    """Raises BackboneError for tokens a text that the model has no positions for."""
    limit = position_limit(model)
    if max_length is not None and max_length < 1:
        raise BackboneError(f"max_length={max_length}: a text has at least 1 token. Raise it.")
    if max_length is not None and limit is not None and max_length > limit:
        raise BackboneError(f"max_length={max_length}: the backbone takes at most {limit} tokens. Lower it.")


def longest_input(model: Any, processor: Any, max_length: int | None) -> int | None:
    """Tokens a text may have: what was asked for, else the limit of tokenizer and model; None for images.

    Raises:
        BackboneError: ``max_length`` is above what the model can take.
    """
    if not hasattr(processor, "model_max_length"):
        return None
    check_max_length(model, max_length)
    return token_limit(model, processor, max_length)


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
    ids = tokenize(tokenizer, [prompt], None)[0]
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
    for name, module in model.named_modules():
        padding: Any = getattr(module, "padding_idx", None)
        if name.rpartition(".")[2] == "position_embeddings" and padding is not None:
            return int(padding) + 1
    return 0


class TokenBatch(NamedTuple):
    """A batch, padded on the right; ``mask`` is None where there is no padding: attention is faster without one."""

    rows: list[int]
    ids: Tensor
    mask: Tensor | None
    tokens: int
    """Without the padding."""


MAX_TOKENS = {"cpu": 1024}
"""Tokens a batch, padding included, by device: on a CPU larger batches fall out of its caches."""
MAX_TOKENS_ACCELERATOR = 32768


def token_budget(device: torch.device) -> int:
    """Tokens a batch that suit a device."""
    return MAX_TOKENS.get(device.type, MAX_TOKENS_ACCELERATOR)


def token_batches(
    ids: Sequence[Sequence[int]], max_tokens: int, pad: int, length: int | None = None
) -> Iterator[TokenBatch]:
    """Batches of at most ``max_tokens`` tokens, padding included, the longest sequences first.

    Padding is on the right whatever the tokenizer's side: learned absolute positions then start at the first token,
    and with a mask, or causally, no token attends to it.

    Args:
        ids: token ids of each sequence.
        pad: the padding token's id.
        length: pads every sequence to this length; None: to the longest of its batch.
    """
    for rows in length_batches([len(row) for row in ids], max_tokens, length or 0):
        longest = max(len(ids[rows[0]]), length or 0)
        batch = torch.full((len(rows), longest), pad)
        mask = torch.zeros_like(batch) if len(ids[rows[-1]]) < longest else None
        for line, row in enumerate(rows):
            size = len(ids[row])
            batch[line, :size] = torch.tensor(ids[row])
            if mask is not None:
                mask[line, :size] = 1
        yield TokenBatch(rows, batch, mask, sum(len(ids[row]) for row in rows))


def length_batches(lengths: Sequence[int], max_tokens: int, least: int = 0) -> Iterator[list[int]]:
    """Rows of like length, the longest first: at least one, and as many as hold ``max_tokens`` when they are padded to
    the longest of them, or to ``least``."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, max_tokens // max(lengths[order[start]], least))]
        yield rows
        start += len(rows)
