"""Examples that occur in two splits: found by normalised text or by picture, and dealt with as asked."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import datasets

from hf_fsl.core.images import content_digest
from hf_fsl.data.columns import image_progress, open_image, raw_images, unreadable_image
from hf_fsl.data.errors import DataError

Policy = Literal["error", "drop_train", "ignore"]
_SHOWN = 3


@dataclass(frozen=True)
class Overlap:
    """What was found, and the rows of every split that are kept under the policy."""

    counts: dict[str, int]
    """``"train/test" -> n``: examples of the first that occur in the second."""
    kept: dict[str, list[int]]
    dropped: int


class _Punctuation(dict[int, int]):
    """Code point -> code point, punctuation -> a space; filled as it is used.

    Symbols stay: an emoji, or the plus signs of C++, may be all that tells two examples apart.
    """

    def __missing__(self, point: int) -> int:
        self[point] = ord(" ") if unicodedata.category(chr(point)).startswith("P") else point
        return self[point]


def normalise(text: str) -> str:
    """Texts that differ only in case, punctuation or spacing come out equal; a text of punctuation stays itself."""
    return _normalise(text, _Punctuation())


def example_keys(data: datasets.Dataset, split: str) -> list[str]:
    """One key an example: equal keys are the same example.

    Texts are normalised, of pairs both. Pictures are compared by their decoded RGB pixels, so that the same picture
    in two files or formats is found.

    Raises:
        DataError: a picture cannot be decoded.
    """
    if "image" not in data.column_names:
        table = _Punctuation()
        columns = [data[name][:] for name in ("text", "text_pair") if name in data.column_names]
        return ["\x1f".join(_normalise(text, table) for text in row) for row in zip(*columns, strict=True)]
    keys = []
    for row, example in enumerate(image_progress(raw_images(data), f"hashing {split}")):
        try:
            with open_image(example["image"]) as image:
                keys.append(content_digest(image))
        except Exception as error:
            raise unreadable_image(row, example["image"], split, error) from error
    return keys


def find_overlap(splits: dict[str, datasets.Dataset], keys: dict[str, list[str]], policy: Policy) -> Overlap:
    """Applies ``on_overlap`` to the splits train, validation and test, in this order.

    Copies within one split are no overlap.

    Args:
        keys: of every split, see :func:`example_keys`.
        policy: ``error`` refuses; ``drop_train`` drops from a split whatever occurs in a later one; ``ignore`` counts.

    Raises:
        DataError: there is an overlap and the policy is ``error``.
    """
    names = list(splits)
    counts: dict[str, int] = {}
    shared: dict[str, set[int]] = {name: set() for name in names}
    shown: list[list[str]] = []
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            later = set(keys[second])
            rows = [row for row, key in enumerate(keys[first]) if key in later]
            if rows:
                counts[f"{first}/{second}"] = len(rows)
                shared[first].update(rows)
                shown.append([f"{_show(splits[first], first, row)} ({first}/{second})" for row in rows[:_SHOWN]])
    if counts and policy == "error":
        found = ", ".join(f"{count} in {pair.replace('/', ' and ')}" for pair, count in counts.items())
        examples = [one for turn in zip_longest(*shown) for one in turn if one is not None][:_SHOWN]
        raise DataError(
            f"The splits overlap: {found}. For example {'; '.join(examples)}. Set data.on_overlap to drop_train to "
            "train without them, or to ignore to measure on examples seen in training (the card says so)."
        )
    if policy != "drop_train":
        shared = {name: set() for name in names}
    kept = {name: [row for row in range(len(keys[name])) if row not in shared[name]] for name in names}
    return Overlap(counts, kept, sum(map(len, shared.values())))


def _normalise(text: str, table: _Punctuation) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(table).split()) or folded.strip()


def _show(data: datasets.Dataset, split: str, row: int) -> str:
    if "image" in data.column_names:
        path = raw_images(data.select([row]))[0]["image"]["path"]
        return f"image {row} of {split}" + (f", {path}" if path else "")
    texts = [data[row][name] for name in ("text", "text_pair") if name in data.column_names]
    return " + ".join(repr(text if len(text) <= 80 else text[:79] + "…") for text in texts)
