"""What a few-shot classifier is fitted on: examples, their classes, and the texts of these."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas
import torch
from sklearn.exceptions import DataConversionWarning
from torch import Tensor

from hf_fsl.core.label_values import contradictions, is_label, is_missing, plain_label
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.backbones.inputs import input_keys
from hf_fsl.models.label_texts import label_text_embeddings
from hf_fsl.models.templates import as_templates, fill_templates

_SEVERAL = (list, tuple, set, frozenset, np.ndarray)


@dataclass(frozen=True)
class LabeledExamples:
    """A support set.

    ``labels`` ``(n,)`` are rows of ``classes`` ``(C,)``, ``label_texts`` has one a class, or is None where classes
    have none; ``unlabeled`` are further inputs of the same kind.
    """

    items: list[Any]
    labels: Tensor
    classes: np.ndarray
    label_texts: tuple[str, ...] | None
    templates: tuple[str, ...]
    unlabeled: list[Any]
    keys: tuple[str, ...]
    """Of each example, equal for equal contents."""
    weights: Tensor | None = None
    """``(n,)``, float64, above 0: as how many examples each counts; None: as one."""
    class_weights: tuple[float, ...] | None = None
    """What each class weighs in them, where classes were weighed."""

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
        first = set(zip(self.keys, self.labels.tolist(), strict=True))
        return torch.bincount(torch.tensor([one for _, one in first], dtype=torch.long), minlength=self.num_classes)

    def part(self, rows: Sequence[int]) -> LabeledExamples:
        """The same classes with some of the examples."""
        items, keys = [self.items[row] for row in rows], tuple(self.keys[row] for row in rows)
        weights = None if self.weights is None else self.weights[list(rows)]
        return replace(self, items=items, labels=self.labels[list(rows)], keys=keys, weights=weights)

    def label_embeddings(self, backbone: Backbone) -> Tensor | None:
        """Of the label texts ``(C, D)``; None where there are none, or the backbone encodes no texts."""
        if self.label_texts is None or backbone.tokenizer is None:
            return None
        return label_text_embeddings(backbone, self.label_texts, self.templates)

    def texts(self) -> list[str]:
        """What is said of each class, template after template: ``len(templates) * C`` texts, or none."""
        return (
            []
            if self.label_texts is None
            else [text for row in fill_templates(self.label_texts, self.templates) for text in row]
        )


def read_examples(
    X: Iterable[Any],
    y: Iterable[Any],
    *,
    label_texts: Mapping[Any, str] | None = None,
    templates: Sequence[str] = ("{}",),
    use_label_texts: bool = True,
    unlabeled: Iterable[Any] | None = None,
    sample_weight: Iterable[float] | None = None,
    class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
) -> LabeledExamples:
    """Checks examples and labels and puts them in order.

    Args:
        X, unlabeled: as ``Backbone.read`` gives them.
        label_texts: class -> its text; a class that has one may be without examples. None: the names of the classes,
            where they are texts.
        use_label_texts: False: none, whatever the classes are called.
        sample_weight, class_weight: as of ``FewShotClassifier``; an example that weighs 0 is as if it was not given.

    Equal examples of two classes are taken as they are, with a warning, as data sets have some.

    Raises:
        FewShotError: lengths that differ, weights that are none, labels that :func:`read_labels` refuses, fewer than
            two classes, texts for some classes only.
        BackboneError: an image that cannot be made RGB.
    """
    items, given = list(X), read_labels(y)
    if len(items) != len(given):
        raise FewShotError(f"Every example has one label: got {len(items)} examples and {len(given)} labels.")
    weights = None if sample_weight is None else read_weights(sample_weight, len(items))
    if weights is not None and not weights.all():
        kept = np.flatnonzero(weights).tolist()
        items, given, weights = [items[row] for row in kept], [given[row] for row in kept], weights[kept]
    if label_texts is not None and not use_label_texts:
        raise FewShotError("use_label_texts=False leaves label texts unused, but label_texts were given. Drop one.")
    names = read_labels([*given, *(label_texts or {})])
    kinds = {isinstance(name, str) for name in names}
    classes, labels = np.unique(np.asarray(names), return_inverse=True)
    if len(classes) < 2:
        raise FewShotError(
            f"A classifier needs two classes or more, got {len(classes)} class{'' if len(classes) else 'es'}"
            f"{': ' * len(classes)}{', '.join(map(str, classes))}."
        )
    texts = (
        texts_for(classes, label_texts) if use_label_texts and (label_texts is not None or kinds == {True}) else None
    )
    numbers = torch.as_tensor(labels[: len(items)], dtype=torch.long)
    keys = tuple(input_keys(items))
    _warn_of_contradictions(items, keys, given)
    others = [] if unlabeled is None else list(unlabeled)
    by_class = None if class_weight is None else weights_of_classes(class_weight, classes, numbers.numpy(), weights)
    if by_class is not None:
        weights = by_class[numbers.numpy()] * (1 if weights is None else weights)
    return LabeledExamples(
        items, numbers, classes, texts, tuple(as_templates(templates)), others, keys,
        None if weights is None else torch.from_numpy(weights),
        None if by_class is None else tuple(by_class.tolist()),
    )  # fmt: skip


def read_weights(sample_weight: Iterable[float], count: int) -> np.ndarray:
    """Weights ``(count,)``, float64. Raises FewShotError where they are none."""
    try:
        weights = np.asarray(list(sample_weight) if isinstance(sample_weight, Iterator) else sample_weight, np.float64)
    except (TypeError, ValueError) as error:
        raise FewShotError(f"sample_weight: one number an example. {error}") from error
    if weights.shape != (count,):
        raise FewShotError(f"sample_weight: one number for each of {count} examples; got the shape {weights.shape}.")
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise FewShotError(f"sample_weight: finite numbers of 0 and more; number {wrong[0]} is {weights[wrong[0]]}.")
    if count and not weights.any():
        raise FewShotError(
            "sample_weight: all weights are zero, so that no example is left. Give some of them a weight."
        )
    return weights


def weights_of_classes(
    class_weight: Literal["balanced"] | Mapping[Any, float],
    classes: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
) -> np.ndarray:
    """What each class weighs ``(C,)``: as scikit-learn's ``compute_class_weight`` has it; 1 without examples.

    Raises:
        FewShotError: a name that is none of the classes, while one of these has no weight.
    """
    if class_weight == "balanced":
        counts = np.bincount(labels, weights, minlength=len(classes))
        shares = counts.sum() / (np.maximum(np.count_nonzero(counts), 1) * np.where(counts > 0, counts, 1))
        return np.where(counts > 0, shares, 1.0)
    assert isinstance(class_weight, Mapping)
    names = classes.tolist()
    unknown, unnamed = set(class_weight) - set(names), set(names) - set(class_weight)
    if unknown and unnamed:
        raise FewShotError(
            f"class_weight: {', '.join(map(str, unknown))} is none of the classes {', '.join(map(str, names))}."
        )
    return np.array([float(class_weight.get(name, 1)) for name in names])


def read_labels(y: Any) -> list[str | int | float | bool]:
    """One label an example, as plain texts or numbers. A column ``(n, 1)`` is taken with scikit-learn's warning, and
    a single label for that of one example.

    Raises:
        FewShotError: missing labels, several labels an example, texts and numbers together, or what is no label: a
            date, Decimal, bytes, an Enum, a fraction, a mapping, a set.
    """
    if isinstance(y, (Mapping, Set)):
        raise FewShotError(f"Labels are a list in the order of the examples, got a {type(y).__name__}.")
    if isinstance(y, Tensor):
        y = y.tolist()
    if isinstance(y, (str, bytes)) or not isinstance(y, Iterable) or getattr(y, "ndim", None) == 0:
        y = [y[()] if isinstance(y, np.ndarray) else y]
    rows = list(y.to_numpy(dtype=object) if isinstance(y, pandas.DataFrame) else y)
    columns = [row for row in rows if isinstance(row, _SEVERAL)]
    if any(len(row) != 1 for row in columns):
        raise FewShotError(
            f"Every example has one label, got several ({columns[0]!r}). A few-shot classifier gives one; "
            "hf-fsl run fine_tune with data.problem_type: multi_label_classification learns several."
        )
    if columns:
        warnings.warn(
            "A column of labels was given where a list is expected: y of shape (n, 1) is taken for (n,).",
            DataConversionWarning,
            stacklevel=4,
        )
        rows = [next(iter(row)) if isinstance(row, _SEVERAL) else row for row in rows]
    missing = [number for number, label in enumerate(rows) if is_missing(label)]
    if missing:
        raise FewShotError(
            f"{len(missing)} examples have no label (the first is number {missing[0]}). Leave them out."
        )
    wrong = next((label for label in rows if not is_label(label)), None)
    if wrong is not None:
        raise FewShotError(
            f"A label is a text, a whole number or a boolean, got {wrong!r} ({type(wrong).__name__}"
            f"{', which is continuous' * isinstance(wrong, float)}). Give the name of the class."
        )
    labels = [plain_label(label) for label in rows]
    texts = [label for label in labels if isinstance(label, str)]
    if texts and len(texts) < len(labels):
        other = next(label for label in labels if not isinstance(label, str))
        raise FewShotError(f"Labels are all texts or all numbers, got both: {texts[0]!r} and {other!r}.")
    return labels


def _warn_of_contradictions(items: list[Any], keys: Sequence[str], labels: Sequence[Any]) -> None:
    found = contradictions(keys, labels)
    if found:
        first, other = found[0]
        shown = f" ({items[first][:80]!r})" if isinstance(items[first], str) else ""
        warnings.warn(
            f"{len(found)} examples are given again for another class; the first is number {first}{shown}, for "
            f"{labels[first]!r} and as number {other} for {labels[other]!r}. They are learned from as they are.",
            stacklevel=4,
        )


def texts_for(classes: np.ndarray, label_texts: Mapping[Any, str] | None) -> tuple[str, ...]:
    """One text a class. Raises FewShotError where a class has none."""
    names = classes.tolist()
    known = dict(label_texts) if label_texts is not None else {name: name for name in names}
    without = [str(name) for name in names if name not in known]
    if without:
        raise FewShotError(
            f"label_texts: all classes have a text or none; without one: {', '.join(without)}. Add them."
        )
    return tuple(known[name] for name in names)


def folds_of(support: LabeledExamples, folds: int, seed: int) -> list[list[int]]:
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
