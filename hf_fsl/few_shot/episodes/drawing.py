"""Drawing without replacement, for many rows at once."""

from __future__ import annotations

import numpy as np

_CELLS = 1 << 17
"""Of the table of a chunk of rows: small enough for a core's own cache, which is what this costs or saves,"""
_LEAST_ROWS = 64
"""unless there is so much to draw from that the chunks would be too many."""


def without_replacement(uniform: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The first k positions of a random order of 0 … size − 1, for every row.

    Fisher and Yates' shuffle: step j swaps position j with one of j … size − 1. Memory does not grow with the rows,
    and time does not with the sizes, but for one table.

    Args:
        uniform: ``(rows, k)`` float64 in [0, 1), which decide.
        sizes: ``(rows,)`` how many there are to draw from; where size < k, what is beyond the size-th means nothing.

    Returns:
        ``(rows, k)`` int64.
    """
    rows, count = uniform.shape
    items = max(int(sizes.max()), count)
    width = min(rows, max(_LEAST_ROWS, _CELLS // items))
    steps = np.arange(count)[:, None]
    unshuffled = np.arange(items, dtype=np.int32)[:, None]
    table = np.repeat(unshuffled, width, axis=1)
    cells = table.reshape(-1)
    drawn = np.empty((rows, count), dtype=np.int64)
    for start in range(0, rows, width):
        some = slice(start, min(start + width, rows))
        here = some.stop - start
        left = np.maximum(sizes[some] - steps, 1)
        partners = steps + (uniform[some].T * left).astype(np.int64)
        where = partners * width + np.arange(here)
        values = np.empty((count, here), dtype=np.int32)
        for step in range(count):
            cells.take(where[step], out=values[step], mode="clip")
            # Position `step` is never looked at again: what it held moves to where the drawn one was.
            cells[where[step]] = table[step, :here]
        drawn[some] = values.T
        cells[where] = partners
    return drawn
