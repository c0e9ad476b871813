"""Token sequences -> padded batches: longest first, as many as a token budget allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class TokenBatch(NamedTuple):
    """A padded batch; ``mask`` is None where there is no padding, for attention is faster without one."""

    rows: list[int]
    ids: Tensor
    mask: Tensor | None
    tokens: int
    """Without the padding."""


def token_batches(ids: Sequence[Sequence[int]], max_tokens: int, pad: int, left: bool) -> Iterator[TokenBatch]:
    """Batches of at most ``max_tokens`` tokens, padding included, the longest sequences first.

    Args:
        ids: token ids of each sequence.
        pad: the padding token's id.
        left: whether padding goes before the tokens.
    """
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    start = 0
    while start < len(order):
        longest = len(ids[order[start]])
        rows = order[start : start + max(1, max_tokens // longest)]
        batch = torch.full((len(rows), longest), pad)
        mask = torch.zeros_like(batch) if len(ids[rows[-1]]) < longest else None
        for line, row in enumerate(rows):
            size = len(ids[row])
            place = slice(longest - size, longest) if left else slice(0, size)
            batch[line, place] = torch.tensor(ids[row])
            if mask is not None:
                mask[line, place] = 1
        yield TokenBatch(rows, batch, mask, sum(len(ids[row]) for row in rows))
        start += len(rows)
