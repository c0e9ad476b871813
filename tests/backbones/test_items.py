"""What encode refuses, and how it says which input it was."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_fsl.backbones import Backbone, BackboneError
from hf_fsl.backbones.items import item_keys, read_items


@pytest.fixture(scope="module")
def truncated():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG")
    return file.getvalue()[:1500]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["cat", " "], "Input 1 is an empty text"),
        (["cat", 3], "input 1 is int"),
        ([3], "input 0 is int"),
        ([Image.new("RGB", (2, 2)), "cat"], "input 1 is str"),
        ("cat", r"a single text. Put it in a list: encode\(\[text\]\)"),
        (Image.new("RGB", (2, 2)), r"a single image. Put it in a list"),
    ],
)
def test_what_is_no_list_of_texts_or_images_is_refused(text_backbone, items, message):
    with pytest.raises(BackboneError, match=message):
        Backbone.from_pretrained(str(text_backbone)).encode(items)


def test_an_image_that_cannot_be_decoded_is_named(image_backbone, truncated):
    backbone = Backbone.from_pretrained(str(image_backbone))
    pictures = [Image.new("RGB", (16, 16)), Image.open(io.BytesIO(truncated))]
    with pytest.raises(BackboneError, match="Input 1 is an image that cannot be decoded: .*truncated"):
        backbone.encode(pictures)
    good = io.BytesIO()
    pictures[0].save(good, format="PNG")
    column = datasets.Dataset.from_dict({"image": [{"bytes": good.getvalue()}, {"bytes": truncated}]})
    with pytest.raises(BackboneError, match="Input 1 is an image that cannot be decoded"):
        backbone.encode(column.cast_column("image", datasets.Image())["image"])


def test_equal_contents_have_equal_keys():
    red, same = Image.new("RGB", (2, 2), "red"), Image.new("RGBA", (2, 2), "red")
    first, second, other = item_keys(read_items(iter([red, same, Image.new("RGB", (2, 2), "blue")])))
    assert first == second != other
