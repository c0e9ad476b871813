"""Pictures as they are meant to be seen, whatever their files say."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image

from hf_fsl.core.images import PictureError, as_rgb, content_digest, is_picture_file, open_picture


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


@pytest.mark.parametrize(
    ("pixels", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F"), (">u2", "I;16B")]
)
def test_more_than_8_bits_are_not_clipped_to_white(pixels, mode):
    picture = Image.fromarray(np.array([[300, 60000]]).astype(pixels))
    assert picture.mode == mode
    with pytest.raises(PictureError, match=f"mode {mode} .* 255 would be white. Scale all of your pictures"):
        as_rgb(picture)
    scaled = Image.fromarray((np.asarray(picture) * (255 / 65535)).astype("uint8"))  # as the message says
    assert np.asarray(as_rgb(scaled))[0, :, 0].tolist() == [1, 233]


def test_a_16_bit_file_keeps_its_mode_until_it_is_asked_for_rgb(tmp_path):
    Image.fromarray(np.array([[300, 60000]], np.uint16)).save(tmp_path / "scan.png")
    with pytest.raises(PictureError, match="mode I;16"):
        as_rgb(open_picture(tmp_path / "scan.png"))


def test_what_names_a_picture_is_opened(tmp_path, monkeypatch):
    picture = Image.new("RGB", (2, 3), "red")
    picture.save(tmp_path / "red.png")
    (tmp_path / "noname").write_bytes((tmp_path / "red.png").read_bytes())
    encoded = base64.encodebytes((tmp_path / "red.png").read_bytes()).decode()
    asked = []

    class Answer:
        content = (tmp_path / "red.png").read_bytes()

        def raise_for_status(self):
            return self

    monkeypatch.setattr("httpx2.get", lambda url, **options: asked.append((url, options["timeout"])) or Answer())
    named = [tmp_path / "red.png", str(tmp_path / "noname"), encoded, f"data:image/png;base64,{encoded}"]
    for source in [*named, "https://there/red"]:
        assert content_digest(open_picture(source, 3.0)) == content_digest(picture)
    assert asked == [("https://there/red", 3.0)]


@pytest.mark.parametrize(
    ("name", "why"),
    [("none.png", "no such file"), ("a text", "neither the path"), ("", "."), (".", "."), ("http:// a", "neither")],
)
def test_what_names_no_picture_is_named(name, why):
    with pytest.raises(PictureError, match=f"{name!r} cannot be read as an image: .*{why}"):
        open_picture(name)


def test_a_picture_is_known_by_its_name_or_by_its_contents(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "blob", format="PNG")
    (tmp_path / "damaged.JPG").write_bytes(b"not much")
    (tmp_path / "notes.txt").write_text("a text")
    assert is_picture_file(tmp_path / "blob") and not is_picture_file(tmp_path / "blob", look_inside=False)
    assert is_picture_file(str(tmp_path / "damaged.JPG"), look_inside=False)
    for name in (tmp_path / "notes.txt", tmp_path, tmp_path / "none.png", "a\0b.png", "x" * 9999, "\ud83d.png"):
        assert not is_picture_file(name)
