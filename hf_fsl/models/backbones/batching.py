"""Token sequences -> padded batches: longest first, as many as a token budget allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


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
