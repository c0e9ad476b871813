"""The examples of an adaptation as the encoder takes them: read once, embedded in any batch, with gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_fsl.few_shot.adaptation.errors import AdaptationError
from hf_fsl.few_shot.adaptation.layers import LayerCut, StateStore, encoder_layers
from hf_fsl.models.backbones import Backbone
from hf_fsl.models.backbones.inputs import read_inputs
from hf_fsl.models.backbones.texts import padded_length
from hf_fsl.training.update import TOKENS_AT_ONCE

IMAGES_PER_BATCH = 32
TOKENISED_AT_ONCE = 1024

Run = Callable[[], Tensor]


class Tokens:
    """Token ids of texts, four bytes each: as Python's lists, or an array a text, they would take many times that."""

    def __init__(self, backbone: Backbone, texts: Sequence[str]) -> None:
        parts: list[np.ndarray] = []
        lengths: list[int] = []
        for start in range(0, len(texts), TOKENISED_AT_ONCE):
            ids = backbone.token_ids(texts[start : start + TOKENISED_AT_ONCE])
            parts.append(np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32))
            lengths += map(len, ids)
        self._ids = np.concatenate(parts)
        self._ends = np.cumsum([0, *lengths])

    def __getitem__(self, row: int) -> list[int]:
        return self._ids[self._ends[row] : self._ends[row + 1]].tolist()

    def length(self, row: int) -> int:
        """Tokens of a text."""
        return int(self._ends[row + 1] - self._ends[row])


class Examples:
    """Texts or images, and how a backbone embeds some of them.

    Args:
        backbone: the copy that is adapted.
        inputs: texts or images, not mixed. Images of a data set's column are decoded when they are needed.
        cache_bytes: of memory for what is computed once: pixels, or states below the cut.

    Raises:
        BackboneError: see ``Backbone.encode``.
        AdaptationError: the backbone does not take such inputs.
    """

    def __init__(self, backbone: Backbone, inputs: Sequence[Any], cache_bytes: int) -> None:
        self.backbone, self.inputs = backbone, inputs
        self.text = isinstance(read_inputs([inputs[0]])[0], str)
        if (backbone.tokenizer if self.text else backbone.image_processor) is None:
            given, taken = ("texts", "images") if self.text else ("images", "texts")
            raise AdaptationError(f"{backbone.name} takes {taken}, and was given {given}. Choose another backbone.")
        self.store = StateStore(cache_bytes)
        self.cut: LayerCut | None = None
        self.pixel_shape: tuple[int, ...] = ()
        if self.text:
            self.tokens = Tokens(backbone, read_inputs(inputs))

    def cut_below(self, first: int) -> nn.ModuleList:
        """From now on the layers below ``first`` are run once an example. Returns those from ``first`` on.

        Raises:
            AdaptationError: the encoder has no such layer.
        """
        layers = encoder_layers(self.backbone.model, lambda: self.embed([0]))
        if first >= len(layers):
            raise AdaptationError(f"first_layer={first}: the encoder has layers 0 to {len(layers) - 1}. Lower it.")
        self.store.clear()
        self.cut = LayerCut(layers, first)
        return layers[first:]

    def embed(self, rows: Sequence[int]) -> Tensor:
        """Embeddings ``(B, D)`` of examples, float32, in the order of ``rows``."""
        if self.cut is not None:
            self._compute_below([row for row in rows if row not in self.store])
        order: list[int] = []
        embeddings: list[Tensor] = []
        for positions, run in self._batches(rows):
            if self.cut is None:
                embeddings.append(run())
            else:
                states = self.store.padded([rows[position] for position in positions])
                with self.cut.entered_with(states.to(self.backbone.device)):
                    embeddings.append(run())
            order += positions
        back = torch.tensor(order).argsort()
        return torch.cat([part.float() for part in embeddings])[back.to(embeddings[0].device)]

    def _compute_below(self, rows: Sequence[int]) -> None:
        assert self.cut is not None
        whole = not self.text or padded_length(self.backbone.model) is not None
        for positions, run in self._batches(rows):
            for position, states in zip(positions, self.cut.states_below(run), strict=True):
                row = rows[position]
                self.store.put(row, states if whole else states[: self.tokens.length(row)])

    def _batches(self, rows: Sequence[int]) -> Iterator[tuple[list[int], Run]]:
        """Positions in ``rows``, and what embeds the examples there."""
        backbone = self.backbone
        if self.text:
            ids = [self.tokens[row] for row in rows]
            for batch in backbone.text_batches(ids, TOKENS_AT_ONCE.get(backbone.device.type)):
                yield batch.rows, lambda batch=batch: backbone.embed_text_batch(batch)  # type: ignore[misc]
            return
        for start in range(0, len(rows), IMAGES_PER_BATCH):
            chunk = rows[start : start + IMAGES_PER_BATCH]
            pixels = self._pixels(chunk)
            yield (
                list(range(start, start + len(chunk))),
                lambda pixels=pixels: backbone.embed_pixels(pixels),  # type: ignore[misc]
            )

    def _pixels(self, rows: Sequence[int]) -> Tensor:
        """``(B, 3, H, W)``; of the right shape only where states below the cut stand for them."""
        if self.cut is not None and all(row in self.store for row in rows):
            return torch.zeros(len(rows), *self.pixel_shape)
        kept = self.cut is None
        found = {row: self.store.get(row) for row in rows if kept and row in self.store}
        missing = [row for row in rows if row not in found]
        if missing:
            computed = self.backbone.pixels(read_inputs([self.inputs[row] for row in missing]))
            self.pixel_shape = tuple(computed.shape[1:])
            found |= dict(zip(missing, computed, strict=True))
            for row in missing:
                if kept and found[row].nbytes <= self.store.left:
                    self.store.put(row, found[row])
        return torch.stack([found[row] for row in rows])
