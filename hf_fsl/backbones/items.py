"""What ``encode`` is given: texts or images, each read, checked, and keyed by its contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from PIL import Image

from hf_fsl.backbones.classification import BackboneError
from hf_fsl.pictures import content_digest

_UNREADABLE = (OSError, SyntaxError, ValueError)  # what Pillow raises for damaged files of one format or another


def read_items(inputs: Iterable[Any]) -> list[Any]:
    """The inputs as a list of texts or of images.

    Raises:
        BackboneError: a bare text or image, something that is neither, both mixed, an empty text, or an image of a
            data set that cannot be decoded.
    """
    if isinstance(inputs, (str, bytes, Image.Image)):
        kind = "image" if isinstance(inputs, Image.Image) else "text"
        raise BackboneError(f"encode takes a list, and was given a single {kind}. Put it in a list: encode([{kind}]).")
    items: list[Any] = []
    rows = iter(inputs)
    while True:
        try:
            items.append(next(rows))
        except StopIteration:
            break
        except _UNREADABLE as error:  # a data set's column decodes its images as they are read
            raise _unreadable(len(items), error) from error
    for row, item in enumerate(items):
        text = isinstance(item, str)
        if not isinstance(item, (str, Image.Image)) or text != isinstance(items[0], str):
            raise BackboneError(
                f"encode takes texts (str) or images (PIL.Image), not mixed; input {row} is {type(item).__name__}."
            )
    empty = [row for row, item in enumerate(items) if isinstance(item, str) and not item.strip()]
    if empty:
        raise BackboneError(f"Input {empty[0]} is an empty text ({len(empty)} are). Fill or remove it.")
    return items


def item_keys(items: list[Any]) -> list[str]:
    """A key for each item, equal for equal contents. Raises BackboneError for an image that cannot be decoded."""
    keys = []
    for row, item in enumerate(items):
        try:
            text = isinstance(item, str)
            keys.append(hashlib.sha256(item.encode()).hexdigest() if text else content_digest(item))
        except _UNREADABLE as error:
            raise _unreadable(row, error) from error
    return keys


def _unreadable(row: int, error: BaseException) -> BackboneError:
    return BackboneError(f"Input {row} is an image that cannot be decoded: {error}. Mend or remove it.")
