"""Pictures as every backbone takes them: upright, RGB, what is transparent shown on white; and opened by name."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import os
from pathlib import PurePath

from PIL import Image, ImageOps

from hf_fsl.core.errors import UserError

Named = str | PurePath


class PictureError(UserError, ValueError):
    """A picture that cannot be read, or not be made RGB without a loss."""


def as_rgb(picture: Image.Image) -> Image.Image:
    """RGB, turned as the file's EXIF orientation says, which is how ``transformers.pipeline`` opens pictures too.

    Under transparent pixels files often hold stray colours, which a plain conversion would bring to light.

    Raises:
        PictureError: its channels have more than 8 bits, which a plain conversion clips: most of it would be white.
    """
    if picture.mode == "F" or picture.mode.startswith("I"):
        raise PictureError(
            f"A picture of mode {picture.mode} has more than 8 bits a pixel, and as RGB all above 255 would be white. "
            "Scale all of your pictures in one way first, such as "
            "Image.fromarray((np.asarray(picture) * (255 / most)).astype('uint8')), with most the largest value that "
            "any may hold (65535 where all of 16 bits is used)"
        )
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


def open_picture(source: Named, timeout: float | None = None) -> Image.Image:
    """The picture that a path, an http(s) URL, a data URI or a base64 string names, decoded.

    For what a user of this machine named: a server must not open what a client sent.

    Args:
        timeout: seconds to wait for one from the web; None: as long as it takes.

    Raises:
        PictureError: there is none, or it cannot be decoded.
    """
    try:
        picture = Image.open(io.BytesIO(_bytes_of(str(source), timeout)))
        picture.load()
    except Exception as error:  # of whatever kind: Pillow and the web have many
        raise PictureError(f"{_shown(source)} cannot be read as an image: {error}") from error
    return picture


def is_url(text: str) -> bool:
    """Whether it is an http(s) URL, and not a sentence that begins with one."""
    return text.startswith(("http://", "https://")) and not any(map(str.isspace, text))


def is_picture_file(name: Named, *, look_inside: bool = True) -> bool:
    """Whether a file of this name is there, and is a picture.

    Args:
        look_inside: also a file whose name does not say so is opened, to see whether it is one.
    """
    if not os.path.isfile(name):
        return False
    if has_picture_suffix(name):
        return True
    try:
        if look_inside:
            Image.open(name).close()
    except Exception:  # no picture; Pillow's plugins raise all sorts
        return False
    return look_inside


def has_picture_suffix(name: Named) -> bool:
    """Whether a name ends as those of pictures do."""
    return os.path.splitext(name)[1].lower() in _suffixes()


def _bytes_of(source: str, timeout: float | None) -> bytes:
    if is_url(source):
        import httpx2

        return httpx2.get(source, timeout=timeout, follow_redirects=True).raise_for_status().content
    if os.path.exists(source):
        with open(source, "rb") as file:
            return file.read()
    if not source.startswith("data:image/") and has_picture_suffix(source):
        raise FileNotFoundError("there is no such file")
    encoded = source.partition(",")[2] if source.startswith("data:image/") else source
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError:
        raise ValueError("it is neither the path of a file, nor an http(s) URL, nor base64") from None


def _shown(source: Named) -> str:
    text = repr(str(source))
    return text if len(text) <= 100 else f"{text[:99]}…"


@functools.cache
def _suffixes() -> frozenset[str]:
    kinds = Image.registered_extensions()
    return frozenset(
        suffix
        for suffix, kind in kinds.items()
        if kind in Image.OPEN and Image.MIME.get(kind, "").startswith("image/")
    )
