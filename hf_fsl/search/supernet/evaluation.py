"""Validation losses of members, example by example: what races and paired tests are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hf_fsl.adapters import evaluating
from hf_fsl.search.data import Split, make_batch
from hf_fsl.search.meter import Meter
from hf_fsl.search.space import Architecture
from hf_fsl.search.supernet.nested import Supernet
from hf_fsl.search.supernet.prefix import PrefixCache


class MemberEvaluator:
    """Log-losses of any member on validation examples, in a fixed random order that is cut into chunks.

    Every member sees the same examples in the same batches, so that differences are paired.

    Args:
        chunks: sizes at which a race looks; those above the split's are cut to it.
        cache: of the lower layers; None: all is computed every time.
    """

    def __init__(
        self,
        supernet: Supernet,
        split: Split,
        batch_size: int = 64,
        chunks: Sequence[int] = (64, 128, 256),
        cache: PrefixCache | None = None,
        meter: Meter | None = None,
        seed: int = 0,
    ) -> None:
        self.supernet, self.cache, self.meter = supernet, cache, meter
        device = next(supernet.model.parameters()).device
        ends = sorted({min(size, len(split)) for size in (*chunks, len(split))})
        order = np.random.default_rng(seed).permutation(len(split))
        self.order = order
        """Position -> index in the split."""
        self.chunks: list[slice] = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        self._batches: list[list[tuple[int, list[int], dict[str, Tensor], Tensor]]] = []
        number = 0
        for chunk in self.chunks:
            positions = np.arange(chunk.start, chunk.stop)
            if split.lengths is not None:
                lengths = np.asarray(split.lengths)[order[positions]]
                positions = positions[np.argsort(-lengths, kind="stable")]
            batches = []
            for start in range(0, len(positions), batch_size):
                rows = positions[start : start + batch_size]
                inputs, labels = make_batch(split, order[rows].tolist(), device)
                batches.append((number, (rows - chunk.start).tolist(), inputs, labels))
                number += 1
            self._batches.append(batches)

    def first_batch(self) -> dict[str, Tensor]:
        """Model inputs of the first batch: what latency is measured on."""
        return self._batches[0][0][2]

    def logits(self, architecture: Architecture, chunk: int) -> tuple[Tensor, Tensor]:
        """Logits ``(n, C)`` and labels ``(n,)`` of a chunk, in the fixed order."""
        size = self.chunks[chunk].stop - self.chunks[chunk].start
        self.supernet.activate(architecture)
        model = self.supernet.model
        collected: Tensor | None = None
        truth = torch.empty(size, dtype=torch.long)
        with evaluating(model), torch.no_grad():
            for number, rows, inputs, labels in self._batches[chunk]:
                if self.cache is None:
                    values, taken = model(**inputs).logits, 0
                else:
                    with self.cache.reuse(number, architecture.first_layer) as taken:
                        values = model(**inputs).logits
                if self.meter is not None:
                    self.meter.forward(inputs, architecture, self.supernet.sites, taken)
                values = values.float().cpu()
                if collected is None:
                    collected = torch.empty(size, values.shape[1])
                collected[rows], truth[rows] = values, labels.cpu()
        assert collected is not None
        return collected, truth

    def losses(self, architecture: Architecture, chunk: int | None = None) -> np.ndarray:
        """Log-loss of each example ``(n,)``, of one chunk or (None) of all of them."""
        if chunk is None:
            return np.concatenate([self.losses(architecture, number) for number in range(len(self.chunks))])
        logits, labels = self.logits(architecture, chunk)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().numpy()
