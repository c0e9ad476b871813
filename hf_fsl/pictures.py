"""Pictures as every backbone takes them: upright, RGB, what is transparent shown on white."""

from __future__ import annotations

import hashlib

from PIL import Image, ImageOps


def as_rgb(picture: Image.Image) -> Image.Image:
    """RGB, turned as the file's EXIF orientation says, which is how ``transformers.pipeline`` opens pictures too.

    Under transparent pixels files often hold stray colours, which a plain conversion would bring to light.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "RGB":
        return picture
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return picture.convert("RGB")


def content_digest(picture: Image.Image) -> str:
    """A digest of what is seen, as RGB: equal for the same picture in two files or formats."""
    rgb = as_rgb(picture)
    return hashlib.sha256(repr(rgb.size).encode() + rgb.tobytes()).hexdigest()
