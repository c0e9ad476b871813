"""Label texts: what stands for each class in the templates, and the embeddings of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from hf_fsl.models.templates import fill_templates

_CAPITALIZED = re.compile("[A-Z][a-z]+")
_CAMEL_CASE = re.compile("([A-Z][a-z]+){2,}")


def complete_label_texts(names: Iterable[str], label_texts: Mapping[str, str]) -> dict[str, str]:
    """A label text for every class.

    Args:
        names: of the classes.
        label_texts: class -> its text, for some of them or all.

    Returns:
        Class -> the text given for it, else its name as one would say it: "card payment fee" for "card_payment_fee",
        "annual crop" for "AnnualCrop".
    """
    return {name: label_texts.get(name) or _spoken(name) for name in names}


def _spoken(name: str) -> str:
    spaced = " ".join(name.replace("_", " ").split())
    return " ".join(_CAPITALIZED.findall(spaced)).lower() if _CAMEL_CASE.fullmatch(spaced) else spaced or name


class TextEncoder(Protocol):
    """What embeds texts: a ``Backbone`` does."""

    def encode(self, inputs: Sequence[Any], *, open_files: bool) -> Tensor:
        """Embeddings ``(N, D)``."""


def label_text_embeddings(
    backbone: TextEncoder,
    labels: Sequence[str],
    templates: Sequence[str] = ("{}",),
    label_texts: Mapping[str, str] | None = None,
) -> Tensor:
    """Embeddings ``(C, D)`` of label texts for a few-shot head: the mean over the templates, not normalized.

    The head's transform does to them what it does to the examples.

    Args:
        labels: ``C`` of them.
        templates: each with one place ``{}`` for the label.
        label_texts: label -> what stands in the templates instead of it.

    Raises:
        ZeroShotError: a text for something that is not among the labels.
    """
    filled = fill_templates(labels, templates, label_texts)
    return torch.stack([backbone.encode(texts, open_files=False) for texts in filled]).mean(0)
