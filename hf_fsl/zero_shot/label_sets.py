"""Label sets: one for all texts or one for each, checked before any text is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from hf_fsl.models.templates import ZeroShotError, as_labels, as_templates, fill_templates, require_candidates

_END = object()


@dataclass(frozen=True)
class LabelSet:
    """Candidate labels, what is said of them, and whether a text has one of them or each on its own."""

    labels: tuple[str, ...]
    templates: tuple[str, ...]
    label_texts: tuple[tuple[str, str], ...] = ()
    """(label, what stands in the templates instead of it), of some labels."""
    multi_label: bool = False

    @classmethod
    def of(
        cls,
        labels: Sequence[str],
        templates: Sequence[str],
        label_texts: Mapping[str, str] | None = None,
        multi_label: bool = False,
    ) -> LabelSet:
        """A label set with the texts of its own labels only. One label alone is always on its own."""
        texts = tuple((label, label_texts[label]) for label in labels if label in label_texts) if label_texts else ()
        return cls(tuple(labels), tuple(templates), texts, multi_label or len(labels) == 1)

    def hypotheses(self) -> list[list[str]]:
        """For each template, one text a label."""
        return fill_templates(self.labels, self.templates, dict(self.label_texts))


class LabelSets:
    """The label sets of a call.

    Args:
        settings: candidate_labels, hypothesis_template, multi_label and label_texts of the call.
        default_template: where the settings have none.

    Raises:
        ZeroShotError: labels or templates that cannot be used, or a text for no candidate label; label sets that
            are in memory are all looked at, and a text has to be for a label in one of them.
    """

    def __init__(self, settings: Mapping[str, Any], default_template: str) -> None:
        self._templates = as_templates(settings.get("hypothesis_template", default_template))
        self._label_texts = settings.get("label_texts")
        self._multi_label = bool(settings.get("multi_label", False))
        self.shared: LabelSet | None = None
        """The label set of all texts; None: each has one of its own."""
        labels = settings.get("candidate_labels")
        if labels is None:
            raise ZeroShotError("Zero-shot classification needs candidate_labels, got none.")
        if _is_one_set(labels):
            self.shared = self._label_set(labels)
            require_candidates(self._label_texts or (), self.shared.labels)
            return
        self._count = len(labels) if isinstance(labels, Sized) else None
        if isinstance(labels, (list, tuple, np.ndarray)):
            known = dict.fromkeys(label for label_set in labels for label in as_labels(label_set))
            require_candidates(self._label_texts or (), known)
        self._sets = _as_stream(labels) if self._count is None else each(labels)

    def of(self, texts: Any) -> Iterator[tuple[Any, LabelSet]]:
        """Each text with its label set.

        Raises:
            ZeroShotError: there are not as many label sets as texts; at once where both numbers are known.
        """
        if self.shared is not None:
            return zip(each(texts), itertools.repeat(self.shared))
        if self._count is not None and isinstance(texts, Sized) and self._count != len(texts):
            raise _mismatch(f"got {self._count} for {len(texts)} texts")
        return self._pairs(each(texts))

    def _pairs(self, texts: Iterable[Any]) -> Iterator[tuple[Any, LabelSet]]:
        for text, labels in itertools.zip_longest(texts, self._sets, fillvalue=_END):
            if text is _END or labels is _END:
                raise _mismatch("got too few" if labels is _END else "got too many")
            yield text, self._label_set(labels)

    def _label_set(self, labels: Any) -> LabelSet:
        if isinstance(labels, Dataset):
            labels = each(labels)
        return LabelSet.of(as_labels(labels), self._templates, self._label_texts, self._multi_label)


def each(items: Any) -> Iterable[Any]:
    """The items of an iterable, or of a data set that only knows its length and its rows."""
    return items if isinstance(items, Iterable) else map(items.__getitem__, range(len(items)))


def _is_one_set(labels: Any) -> bool:
    """Whether it is one label set, or something that cannot be used, rather than one set a text."""
    if isinstance(labels, (str, set, frozenset, Mapping)) or not isinstance(labels, (Iterable, Dataset)):
        return True
    return isinstance(labels, Sized) and all(isinstance(label, str) for label in each(labels))


def _as_stream(labels: Iterable[Any]) -> Iterator[Any]:
    sets = iter(labels)
    first = next(sets, _END)
    if first is _END:
        raise ZeroShotError("Zero-shot classification needs at least one candidate label, got none.")
    if isinstance(first, str) and "," not in first:
        # Most likely the labels of all texts: each text would get one of them.
        raise ZeroShotError(
            f"An iterator of candidate_labels gives one label set a text; got {first!r}. Make a list of it if these "
            "are the labels of all texts."
        )
    return itertools.chain([first], sets)


def _mismatch(got: str) -> ZeroShotError:
    return ZeroShotError(f"candidate_labels: one list of labels for each text, or one for all; {got}.")
