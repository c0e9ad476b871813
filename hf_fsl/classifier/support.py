"""What a few-shot classifier is fitted on: examples, their classes, and the words for these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_fsl.backbones import Backbone
from hf_fsl.backbones.items import item_keys, read_items
from hf_fsl.errors import UserError
from hf_fsl.zero_shot.bi_encoder import label_prior
from hf_fsl.zero_shot.templates import as_templates, fill_templates


class FewShotError(UserError, ValueError):
    """A support set, or a request, that few-shot classification cannot work with."""


@dataclass(frozen=True)
class Support:
    """A support set.

    ``labels`` ``(n,)`` are rows of ``classes`` ``(C,)``, ``words`` has one text a class, or is None where classes have
    none; ``unlabeled`` are further inputs of the same kind.
    """

    items: list[Any]
    labels: Tensor
    classes: np.ndarray
    words: tuple[str, ...] | None
    templates: tuple[str, ...]
    unlabeled: list[Any]
    keys: tuple[str, ...]
    """Of each example, equal for equal contents."""

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def of_texts(self) -> bool:
        return not self.items or isinstance(self.items[0], str)

    @property
    def counts(self) -> Tensor:
        """Examples of each class ``(C,)``."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    @property
    def distinct(self) -> Tensor:
        """Different examples of each class ``(C,)``."""
        first = dict(zip(self.keys, self.labels.tolist(), strict=True))
        return torch.bincount(torch.tensor([*first.values()], dtype=torch.long), minlength=self.num_classes)

    def part(self, rows: Sequence[int]) -> Support:
        """The same classes with some of the examples."""
        items, keys = [self.items[row] for row in rows], tuple(self.keys[row] for row in rows)
        return replace(self, items=items, labels=self.labels[list(rows)], keys=keys)

    def prior(self, backbone: Backbone) -> Tensor | None:
        """The classes' words as embeddings ``(C, D)``; None without words, or where the backbone encodes no texts."""
        if self.words is None or backbone.tokenizer is None:
            return None
        return label_prior(backbone, self.words, self.templates)

    def texts(self) -> list[str]:
        """What is said of each class, template after template: ``len(templates) * C`` texts, or none."""
        return (
            [] if self.words is None else [text for row in fill_templates(self.words, self.templates) for text in row]
        )


def read_support(
    X: Iterable[Any],
    y: Iterable[Any],
    *,
    label_texts: Mapping[Any, str] | None = None,
    templates: Sequence[str] = ("{}",),
    use_words: bool = True,
    unlabeled: Iterable[Any] | None = None,
) -> Support:
    """Checks examples and labels and puts them in order.

    Args:
        label_texts: class -> the words for it; a class may be without examples if it has words. None: the names of
            the classes, where they are texts.
        use_words: False: no words, whatever the classes are called.

    Raises:
        FewShotError: lengths that differ, missing labels, fewer than two classes, an example of two classes, words for
            some classes only.
        BackboneError: inputs that are neither texts nor images, or both.
    """
    items, given = read_items(X), list(y)
    if len(items) != len(given):
        raise FewShotError(f"Every example has one label: got {len(items)} examples and {len(given)} labels.")
    missing = [row for row, label in enumerate(given) if label is None or label != label]
    if missing:
        raise FewShotError(
            f"{len(missing)} examples have no label (the first is number {missing[0]}). Leave them out."
        )
    if label_texts is not None and not use_words:
        raise FewShotError("prior=None leaves the words for the classes unused, but label_texts were given. Drop one.")
    names = [*given, *(label_texts or {})]
    kinds = {isinstance(name, str) for name in names}
    if len(kinds) > 1:
        raise FewShotError(f"Labels are all texts or all numbers, got both: {names[0]!r} and others.")
    classes, labels = np.unique(np.asarray(names), return_inverse=True)
    if len(classes) < 2:
        raise FewShotError(
            f"A classifier needs two classes or more, got {len(classes)}: {', '.join(map(str, classes))}."
        )
    words = words_for(classes, label_texts) if use_words and (label_texts is not None or kinds == {True}) else None
    numbers = torch.as_tensor(labels[: len(items)], dtype=torch.long)
    keys = tuple(item_keys(items))
    _one_class_each(items, keys, given)
    # A column of a data set is no list, and says of itself that it is true or false in its own way.
    others = read_items([] if unlabeled is None else unlabeled)
    return Support(items, numbers, classes, words, tuple(as_templates(templates)), others, keys)


def _one_class_each(items: list[Any], keys: Sequence[str], labels: Sequence[Any]) -> None:
    rows: dict[str, int] = {}
    for row, key in enumerate(keys):
        first = rows.setdefault(key, row)
        if labels[first] != labels[row]:
            shown = f" ({items[row][:80]!r})" if isinstance(items[row], str) else ""
            raise FewShotError(
                f"Examples {first} and {row} are the same{shown}, and are given for {labels[first]!r} and "
                f"{labels[row]!r}. Take it out of one of them."
            )


def words_for(classes: np.ndarray, label_texts: Mapping[Any, str] | None) -> tuple[str, ...]:
    """One text a class. Raises FewShotError where a class has none."""
    names = classes.tolist()
    known = dict(label_texts) if label_texts is not None else {name: name for name in names}
    without = [str(name) for name in names if name not in known]
    if without:
        raise FewShotError(
            f"label_texts: all classes have words or none; without any: {', '.join(without)}. Add them."
        )
    return tuple(known[name] for name in names)


def folds_of(support: Support, folds: int, seed: int) -> list[list[int]]:
    """Disjoint sets of rows to hold out, each class spread evenly over them, equal examples together.

    A class with one example is never held out: nothing would be left of it. A class with fewer examples than folds
    is held out in some of them only.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(folds)]
    offset = 0
    for number in range(support.num_classes):
        groups: dict[str, list[int]] = {}
        for row in np.flatnonzero((support.labels == number).numpy()).tolist():
            groups.setdefault(support.keys[row], []).append(row)
        if len(groups) < 2:
            continue
        rows = [*groups.values()]
        for position, one in enumerate(rng.permutation(len(rows)).tolist()):
            parts[(position + offset) % folds] += rows[one]
        offset += len(rows)
    return [sorted(part) for part in parts if part]
