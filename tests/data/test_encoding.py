"""Examples as a model takes them."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from hf_fsl.core.images import PictureError
from hf_fsl.core.task import Task
from hf_fsl.data.encoding import EncodedSplit

PICTURES = Task(modality="image", label_names=("a", "b"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pixels_have_the_precision_of_the_weights(dtype, tiny_model):
    data = datasets.Dataset.from_dict({"image": [Image.new("RGB", (16, 16), "red")] * 2, "label": [0, 1]})
    split = EncodedSplit(data, PICTURES, ViTImageProcessor(size={"height": 16, "width": 16}), dtype=dtype)
    batch = split.collate([split[0], split[1]])
    assert tiny_model("vit").to(dtype)(pixel_values=batch["pixel_values"]).logits.dtype == dtype


def test_a_picture_of_16_bits_is_named_not_clipped(tmp_path):
    picture = Image.fromarray(np.full((16, 16), 60000, np.uint16))
    data = datasets.Dataset.from_dict({"image": [Image.new("RGB", (16, 16)), picture]})
    split = EncodedSplit(data, PICTURES, ViTImageProcessor(size={"height": 16, "width": 16}))
    assert split[0]["pixel_values"].shape == (3, 16, 16)
    with pytest.raises(PictureError, match="Image 1: A picture of mode I;16"):
        split[1]
