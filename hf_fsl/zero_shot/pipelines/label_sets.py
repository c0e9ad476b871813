"""Which question each text is asked: one label set for all, or one for each. Checked before any text is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from hf_fsl.models.templates import ZeroShotError, as_labels, as_templates, require_candidates
from hf_fsl.zero_shot.scores import Question, question_of

_END = object()


class Questions:
    """The questions of a call.

    Args:
        settings: candidate_labels, hypothesis_template, multi_label and label_descriptions of the call.
        default_template: where the settings have none.

    Raises:
        ZeroShotError: labels or templates that cannot be used, or a description of no candidate label; label sets
            that are in memory are all looked at, and a description has to be of a label in one of them.
    """

    def __init__(self, settings: Mapping[str, Any], default_template: str) -> None:
        self._templates = as_templates(settings.get("hypothesis_template", default_template))
        self._descriptions = settings.get("label_descriptions")
        self._multi_label = bool(settings.get("multi_label", False))
        self.shared: Question | None = None
        """What all texts are asked; None: each has a question of its own."""
        labels = settings.get("candidate_labels")
        if labels is None:
            raise ZeroShotError("Zero-shot classification needs candidate_labels, got none.")
        if _is_one_set(labels):
            self.shared = self._question(labels)
            require_candidates(self._descriptions or (), self.shared.labels)
            return
        self._count = len(labels) if isinstance(labels, Sized) else None
        if isinstance(labels, (list, tuple, np.ndarray)):
            known = dict.fromkeys(label for own in labels for label in as_labels(own))
            require_candidates(self._descriptions or (), known)
        self._sets = _as_stream(labels) if self._count is None else each(labels)

    def of(self, texts: Any) -> Iterator[tuple[Any, Question]]:
        """Each text with its question.

        Raises:
            ZeroShotError: there are not as many label sets as texts; at once where both numbers are known.
        """
        if self.shared is not None:
            return zip(each(texts), itertools.repeat(self.shared))
        if self._count is not None and isinstance(texts, Sized) and self._count != len(texts):
            raise _mismatch(f"got {self._count} for {len(texts)} texts")
        return self._pairs(each(texts))

    def _pairs(self, texts: Iterable[Any]) -> Iterator[tuple[Any, Question]]:
        for text, labels in itertools.zip_longest(texts, self._sets, fillvalue=_END):
            if text is _END or labels is _END:
                raise _mismatch("got too few" if labels is _END else "got too many")
            yield text, self._question(labels)

    def _question(self, labels: Any) -> Question:
        if isinstance(labels, Dataset):
            labels = each(labels)
        return question_of(as_labels(labels), self._templates, self._descriptions, self._multi_label)


def each(given: Any) -> Iterable[Any]:
    """The items of an iterable, or of a data set that only knows its length and its rows."""
    return given if isinstance(given, Iterable) else map(given.__getitem__, range(len(given)))


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
