"""What users give as inputs -> a list of texts or of images, each read, checked, and keyed by its contents.

The one reader of ``fit``, ``predict``, ``encode``, the pipelines and the command line.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_fsl.core.errors import UserError
from hf_fsl.core.images import PictureError, content_digest, has_picture_suffix, is_picture_file, is_url, open_picture
from hf_fsl.core.label_values import is_missing
from hf_fsl.core.terminal import check_text
from hf_fsl.models.backbones.errors import BackboneError

_UNREADABLE = (OSError, SyntaxError, ValueError)  # what Pillow raises for damaged files of one format or another


def rows_of(inputs: Any) -> tuple[bool, Iterable[Any]]:
    """Whether it is one input, and the inputs, unread, one after the other.

    A frame, table or data set of one column is that column.

    Raises:
        BackboneError: what has no inputs one after the other: bytes, a mapping, a set, a frame of several columns, an
            array of numbers or of several columns.
    """
    if isinstance(inputs, (str, PurePath, Image.Image)):
        return True, [inputs]
    kind = type(inputs).__name__
    if isinstance(inputs, (np.ndarray, torch.Tensor)):
        numbers, count = isinstance(inputs, torch.Tensor) or inputs.dtype.kind not in "OUT", math.prod(inputs.shape)
        if count and (numbers or (inputs.ndim > 1 and count != len(inputs))):
            raise BackboneError(
                f"Inputs are texts or images one after the other, got an array of {inputs.dtype} and shape "
                f"{tuple(inputs.shape)}. Give a list or a column; of pixels make images: Image.fromarray(pixels)."
            )
        return inputs.ndim == 0, inputs.reshape(-1).tolist()
    names = getattr(inputs, "column_names", None)  # of a data set, or an Arrow table
    if names is None and (hasattr(inputs, "iloc") or hasattr(inputs, "get_column")):  # a frame of pandas, of polars
        names = getattr(inputs, "columns", None)
    if names is not None and not isinstance(inputs, Mapping):
        names = list(names)
        if len(names) != 1:
            raise BackboneError(
                f"Inputs are texts or images one after the other, got {kind} of {len(names)} columns "
                f"({', '.join(map(repr, names[:5]))}{', …' if len(names) > 5 else ''}). Give one column of it."
            )
        inputs = inputs[names[0]]
    if isinstance(inputs, (bytes, bytearray, memoryview, Mapping, set, frozenset)):
        way_out = "Give a list, or one column of it"
        if isinstance(inputs, (bytes, bytearray, memoryview)):
            way_out = "Decode a text; of a picture make an image: Image.open(io.BytesIO(…))"
        raise BackboneError(f"Inputs are texts or images one after the other, got {kind}. {way_out}.")
    if hasattr(inputs, "to_pylist"):  # of Arrow, whose values are not Python's
        return False, inputs.to_pylist()
    if isinstance(inputs, (list, tuple)):
        return False, inputs
    if isinstance(inputs, Iterable):
        return False, _decoded(inputs)
    if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
        return False, _decoded(map(inputs.__getitem__, range(len(inputs))))
    raise BackboneError(f"Inputs are texts or images one after the other, got {kind}. Give a list of them.")


def read_inputs(
    inputs: Any,
    *,
    text: bool = True,
    image: bool = True,
    open_files: bool = False,
    timeout: float | None = None,
    first: int = 0,
) -> list[Any]:
    """The inputs as a list of texts or of images.

    Args:
        inputs: one text or image, or many; see :func:`rows_of`.
        text, image: what the model takes.
        open_files: a string that is the path of a picture, its http(s) URL or data URI stands for the picture where
            the model takes images; where it takes no texts, base64 does as well. Only for what a user of this machine
            named. False: a string is a text, and nothing is opened.
        timeout: seconds to wait for a picture from the web.
        first: number of the first input, in what is said of one.

    Raises:
        BackboneError: something that is neither text nor image, both mixed, an empty text, a picture that cannot be
            read, or the path of a picture where texts are taken.
    """
    items: list[Any] = []
    for row, value in enumerate(rows_of(inputs)[1], first):
        if isinstance(value, str):
            value = str(value)  # Python's, of a string of numpy
            if not value.strip():
                raise BackboneError(f"Input {row} is an empty text. Fill or remove it.")
            check_text(value, f"Input {row}", BackboneError)
        if open_files and isinstance(value, (str, PurePath)):
            value = _read(row, value, text, image, timeout)
        if not isinstance(value, (str, Image.Image)):
            raise _no_input(row, value)
        items.append(value)
        if isinstance(value, str) != isinstance(items[0], str):
            kinds = ["a text" if isinstance(item, str) else "an image" for item in (items[0], value)]
            raise BackboneError(
                f"Inputs are texts (str) or images (PIL.Image), not mixed; input {first} is {kinds[0]}, input {row} "
                f"{kinds[1]}."
            )
    return items


def input_keys(items: list[Any]) -> list[str]:
    """A key for each item, equal for equal contents. Raises BackboneError for an image that cannot be made RGB."""
    keys = []
    for row, item in enumerate(items):
        if isinstance(item, str):
            keys.append(hashlib.sha256(item.encode()).hexdigest())
            continue
        try:
            keys.append(content_digest(item))
        except PictureError as error:
            raise BackboneError(f"Input {row}: {error}.") from error
        except _UNREADABLE as error:
            raise _unreadable(row, error) from error
    return keys


def _read(row: int, value: Any, takes_text: bool, takes_images: bool, timeout: float | None) -> str | Image.Image:
    """A text, or the picture that it names where the model takes images."""
    named = isinstance(value, PurePath) or is_url(value) or value.startswith("data:image/")
    if not takes_images:
        if isinstance(value, PurePath) or is_picture_file(value):
            raise BackboneError(
                f"Input {row} ({str(value)!r}) is the path of a picture, and the model takes texts. Give texts, or "
                "choose a model of images."
            )
        return value
    if takes_text and not named and not is_picture_file(value):
        if has_picture_suffix(value) and ("/" in value or not any(map(str.isspace, value))):
            raise BackboneError(f"Input {row} ({value!r}) is named like a picture, and there is no such file.")
        return value
    try:
        return open_picture(value, timeout)
    except PictureError as error:
        raise BackboneError(f"Input {row}: {error}.{'' if takes_text else ' The model takes images.'}") from error


def _no_input(row: int, value: Any) -> BackboneError:
    way_out = "Give a list or a column of texts or images."
    if isinstance(value, Mapping):
        way_out = "Of a data set's rows give one column: rows['text'], or KeyDataset(rows, 'text')."
    elif is_missing(value):
        way_out = "It is missing: fill it, or take it out."
    kind = type(value).__name__
    return BackboneError(f"Inputs are texts (str) or images (PIL.Image); input {row} is {kind}. {way_out}")


def _decoded(inputs: Iterable[Any]) -> Iterator[Any]:
    """The rows; a data set's column decodes its images as they are read."""
    rows = iter(inputs)
    for row in itertools.count():
        try:
            yield next(rows)
        except StopIteration:
            return
        except UserError:
            raise
        except UnicodeError as error:
            raise BackboneError(f"Input {row} is no text in the encoding it is read in: {error}.") from error
        except _UNREADABLE as error:
            raise _unreadable(row, error) from error


def _unreadable(row: int, error: BaseException) -> BackboneError:
    return BackboneError(f"Input {row} is an image that cannot be decoded: {error}. Mend or remove it.")
