"""Pictures as they are meant to be seen, whatever their files say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image

from hf_fsl.pictures import as_rgb, content_digest


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_jpeg_is_seen_as_a_stock_pipeline_sees_it(orientation, tmp_path):
    pixels = np.zeros((16, 24, 3), dtype=np.uint8)
    pixels[:8, :8] = [200, 30, 30]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as picture:
        assert picture.getexif()[0x0112] == orientation
        seen = as_rgb(picture)
        assert seen.size == ((16, 24) if orientation >= 5 else (24, 16))
        assert np.array_equal(np.asarray(seen), np.asarray(load_image(str(path))))
        assert content_digest(picture) == content_digest(seen)  # turned once, not twice


def test_transparent_pixels_are_white():
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (0, 255, 0, 255))
    assert np.asarray(as_rgb(picture)).tolist() == [[[255, 255, 255], [0, 255, 0]]]
