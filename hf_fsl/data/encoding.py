"""Mapped examples -> what a model takes: texts tokenised once, images processed once, batches collated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import torch
from torch import Tensor

from hf_fsl.core.images import PictureError, as_rgb
from hf_fsl.core.task import Task

IMAGE_CACHE_BYTES = 2 << 30
"""Processed images are kept in memory as long as a split's fit into this."""


class EncodedSplit(torch.utils.data.Dataset[dict[str, Any]]):
    """A split as model inputs. Item i: the features of example i, its ``labels`` and its ``index``.

    Args:
        data: a split with the task's input columns and, where known, ``label`` (see :class:`hf_fsl.core.task.Task`).
        task: what is classified.
        processor: the backbone's tokenizer or image processor.
        max_length: tokens a text may have; longer ones are cut. Ignored for images.
        dtype: of the pixels: that of the model's weights.
    """

    def __init__(
        self,
        data: datasets.Dataset,
        task: Task,
        processor: Any,
        max_length: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.task, self.processor, self.dtype = task, processor, dtype
        self.labels = label_tensor(data["label"], task) if "label" in data.column_names else None
        self.lengths: list[int] | None = None
        self._images: datasets.Dataset | None = None
        self._features: list[dict[str, Any]] = []
        if task.modality == "image":
            self._images = data.select_columns(["image"])
            self._cache: dict[int, Tensor] = {}
        else:
            columns = [list(data[column]) for column in task.input_columns]
            encoded = processor(*columns, truncation=True, max_length=max_length)
            self._features = [dict(zip(encoded, row, strict=True)) for row in zip(*encoded.values(), strict=True)]
            self.lengths = [len(ids) for ids in encoded["input_ids"]]

    def __len__(self) -> int:
        return len(self._images) if self._images is not None else len(self._features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        images = self._images is not None
        item: dict[str, Any] = {"pixel_values": self._pixels(index)} if images else dict(self._features[index])
        item["index"] = index
        if self.labels is not None:
            item["labels"] = self.labels[index]
        return item

    def collate(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Items -> a batch, texts padded to the longest of it."""
        stacked = [name for name in ("pixel_values", "labels") if name in items[0]]
        batch = {name: torch.stack([item[name] for item in items]) for name in stacked}
        batch["index"] = torch.tensor([item["index"] for item in items])
        if self._images is None:
            names = [name for name in items[0] if name not in ("labels", "index")]
            features = {name: [item[name] for item in items] for name in names}
            batch.update(self.processor.pad(features, return_tensors="pt"))
        return batch

    def _pixels(self, index: int) -> Tensor:
        if index in self._cache:
            return self._cache[index]
        assert self._images is not None
        try:
            picture = as_rgb(self._images[index]["image"])
        except PictureError as error:
            raise PictureError(f"Image {index}: {error}.") from error
        pixels: Tensor = self.processor(picture, return_tensors="pt")["pixel_values"][0].to(self.dtype)
        if pixels.nbytes * len(self) <= IMAGE_CACHE_BYTES:
            self._cache[index] = pixels
        return pixels


def label_tensor(labels: Sequence[Any], task: Task) -> Tensor:
    """Labels of a mapped split: indices ``(N,)``, or multi-hot ``(N, C)`` for multi-label tasks."""
    if not task.multi_label:
        return torch.tensor(list(labels))
    hot = torch.zeros(len(labels), len(task.label_names))
    for row, indices in enumerate(labels):
        hot[row, list(indices)] = 1.0
    return hot
