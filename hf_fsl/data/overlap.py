"""Examples that occur in two splits: found by normalised text or by picture, and dealt with as asked."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

import datasets
from tqdm import tqdm

from hf_fsl.data.errors import DataError
from hf_fsl.pictures import as_rgb

Policy = Literal["error", "drop_train", "ignore"]
_SHOWN = 3


def normalise(text: str) -> str:
    """Texts that differ only in case, punctuation or spacing come out equal; a text of punctuation stays itself."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]|_", " ", folded).split()) or folded.strip()


def example_keys(data: datasets.Dataset, split: str) -> list[str]:
    """One key an example: equal keys are the same example."""
    if "image" not in data.column_names:
        columns = [data[name] for name in ("text", "text_pair") if name in data.column_names]
        return ["\x1f".join(map(normalise, row)) for row in zip(*columns, strict=True)]
    images = data.select_columns(["image"])
    keys = []
    for row in tqdm(images, desc=f"hashing {split}", unit="img", disable=len(images) < 2000, leave=False):
        picture = as_rgb(row["image"])
        keys.append(hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest())
    return keys


def resolve_overlap(
    splits: dict[str, datasets.Dataset], policy: Policy
) -> tuple[dict[str, datasets.Dataset], dict[str, int], int]:
    """Applies ``on_overlap`` to the splits train, validation and test, in this order.

    Args:
        policy: ``error`` refuses; ``drop_train`` drops from a split whatever occurs in a later one; ``ignore`` counts.

    Returns:
        The splits, ``"train/test" -> examples of the first that occur in the second``, and how many were dropped.

    Raises:
        DataError: there is an overlap and the policy is ``error``.
    """
    names = list(splits)
    keys = {name: example_keys(data, name) for name, data in splits.items()}
    found: dict[str, int] = {}
    shared: dict[str, set[int]] = {name: set() for name in names}
    shown: list[str] = []
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            later = set(keys[second])
            rows = [row for row, key in enumerate(keys[first]) if key in later]
            if rows:
                found[f"{first}/{second}"] = len(rows)
                shared[first].update(rows)
                shown += _describe(splits[first], first, rows)
    if not found or policy == "ignore":
        return splits, found, 0
    if policy == "error":
        counts = ", ".join(f"{count} in {pair.replace('/', ' and ')}" for pair, count in found.items())
        raise DataError(
            f"The splits overlap: {counts}. For example {'; '.join(shown[:_SHOWN])}. Set data.on_overlap to "
            "drop_train to train without them, or to ignore to measure on examples seen in training "
            "(the card says so)."
        )
    kept = {
        name: data.select([row for row in range(len(data)) if row not in shared[name]]) if shared[name] else data
        for name, data in splits.items()
    }
    return kept, found, sum(map(len, shared.values()))


def _describe(data: datasets.Dataset, split: str, rows: Sequence[int]) -> list[str]:
    if "image" in data.column_names:
        return [f"image {row} of {split}" for row in rows[:_SHOWN]]
    return [repr(data[row]["text"][:80]) for row in rows[:_SHOWN]]
