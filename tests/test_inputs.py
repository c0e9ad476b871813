"""Examples as a model takes them."""

from __future__ import annotations

import datasets
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from hf_fsl.inputs import EncodedSplit
from hf_fsl.tasks import Task

PICTURES = Task(modality="image", label_names=("a", "b"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pixels_have_the_precision_of_the_weights(dtype, tiny_model):
    data = datasets.Dataset.from_dict({"image": [Image.new("RGB", (16, 16), "red")] * 2, "label": [0, 1]})
    split = EncodedSplit(data, PICTURES, ViTImageProcessor(size={"height": 16, "width": 16}), dtype=dtype)
    batch = split.collate([split[0], split[1]])
    assert tiny_model("vit").to(dtype)(pixel_values=batch["pixel_values"]).logits.dtype == dtype
