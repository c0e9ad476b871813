"""A support set as it is given to a call: read, checked, and the classifier that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hf_fsl.core.errors import UserError
from hf_fsl.few_shot.heads import choose_head, fit_head
from hf_fsl.models.backbones import BackboneError
from hf_fsl.models.backbones.inputs import rows_of
from hf_fsl.models.export import CacheHead, LinearHead
from hf_fsl.models.templates import as_labels


class FewShotError(UserError, ValueError):
    """A support set or queries that few-shot classification cannot work with."""


class EncoderError(UserError):
    """A repository that does not load as an encoder.

    No ValueError: of those, ``pipeline()`` would try the class that the repository names, whatever it is.
    """


@dataclass(frozen=True)
class FittedSupport:
    """The classifier that a support set gave."""

    labels: tuple[str, ...]
    head: LinearHead | CacheHead
    reason: str
    """Why it is this one."""
    kind: type
    """Of the examples: str, or an image."""
    examples: frozenset[str]
    """Their keys, by their contents."""


def choose(
    embeddings: Tensor, labels: Tensor, classes: int, names: Tensor | None, head: str
) -> tuple[LinearHead | CacheHead, str]:
    """A head and why it is this one.

    Args:
        embeddings: ``(n, D)``.
        labels: ``(n,)``.
        names: label embeddings ``(C, D)``.
        head: ``auto`` or the name of an estimator, whose hyperparameters are then chosen where they can be.
    """
    settings: dict[str, Any] = {"num_classes": classes, "prior": names}
    if head != "auto" and int(labels.bincount(minlength=classes).min()) < 2:
        return fit_head(
            head, embeddings, labels, **settings
        ), f"{head} was asked for; with one example it is not tuned."
    choice = choose_head(embeddings, labels, **settings, candidates=None if head == "auto" else [head])
    return choice.head, choice.reason


def read_support(support: Any) -> tuple[list[str], list[list[Any]]]:
    """Labels, and the examples of each.

    Raises:
        FewShotError: no mapping, one label only, a label without examples, or examples that are none.
    """
    if not isinstance(support, Mapping):
        raise FewShotError(
            "Few-shot classification needs support={label: [examples, …], …}, "
            + ("and got none." if support is None else f"and got a {type(support).__name__}.")
        )
    labels = as_labels(list(support)) if support else []
    if len(labels) < 2:
        raise FewShotError(f"A support set has at least two labels, got {labels or 'none'}.")
    examples = []
    for label in labels:
        try:
            examples.append(list(rows_of(support[label])[1]))
        except BackboneError as error:
            raise FewShotError(f"support[{label!r}]: {error}") from error
    empty = [label for label, rows in zip(labels, examples, strict=True) if not rows]
    if empty:
        raise FewShotError(
            f"Every label needs an example; without any: {', '.join(empty)}. Add one, or ask a zero-shot pipeline."
        )
    return labels, examples


def check_owners(labels: Sequence[str], owners: Sequence[int], keys: Sequence[str]) -> None:
    """Raises FewShotError for an example of two labels.

    Args:
        owners: index of each example's label.
        keys: of each example, by its contents.
    """
    owner: dict[str, int] = {}
    for key, row in zip(keys, owners, strict=True):
        if owner.setdefault(key, row) != row:
            raise FewShotError(
                f"An example is given for {labels[owner[key]]!r} and for {labels[row]!r}. Take it out of one of them."
            )
