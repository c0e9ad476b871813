"""Candidate labels, and the templates that put them into words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_fsl.core.errors import UserError
from hf_fsl.core.placeholders import has_one_place
from hf_fsl.core.terminal import check_text


class ZeroShotError(UserError, ValueError):
    """Labels, templates, inputs or a model that zero-shot classification cannot work with."""


def as_labels(labels: Any) -> list[str]:
    """Candidate labels as a list: given as one (or an array, or another iterable with an order), or as one string with
    commas between them.

    Raises:
        ZeroShotError: none, an empty one, one that is no text, one that occurs twice, or a set of them.
        BackboneError: one with half a character in it.
    """
    if isinstance(labels, (set, frozenset, Mapping)) or not isinstance(labels, Iterable):
        raise ZeroShotError(
            f"Candidate labels are a list of texts, or one text with commas; got {type(labels).__name__} {labels!r}"
            f"{', which has no order: give a list' if isinstance(labels, (set, frozenset)) else ''}."
        )
    listed = [part for part in map(str.strip, labels.split(",")) if part] if isinstance(labels, str) else list(labels)
    if not listed:
        raise ZeroShotError("Zero-shot classification needs at least one candidate label, got none.")
    wrong = [label for label in listed if not isinstance(label, str) or not label.strip()]
    if wrong:
        raise ZeroShotError(f"A candidate label is a text that is not empty, got {wrong[0]!r} in {listed}.")
    for label in listed:
        check_text(label, f"The candidate label {label!r}", ZeroShotError)
    twice = sorted(label for label, count in Counter(listed).items() if count > 1)
    if twice:
        raise ZeroShotError(f"Candidate labels must differ; more than once: {', '.join(twice)}. Give each once.")
    return [str(label) for label in listed]  # those of an array are of its own kind


def as_templates(templates: Any) -> list[str]:
    """One template or several, as a list.

    Raises:
        ZeroShotError: none, or one without exactly one place ``{}`` for the label.
    """
    if not isinstance(templates, Iterable):
        raise ZeroShotError(
            f"A template is a text such as 'This is about {{}}.', or a list of them; got {templates!r}."
        )
    listed = [templates] if isinstance(templates, str) else list(templates)
    if not listed:
        raise ZeroShotError("At least one template is needed, such as 'This is about {}.', got none.")
    for template in listed:
        if not has_one_place(template):
            raise ZeroShotError(
                f"A template has one place {{}} for the label, with nothing in it, such as 'This is about {{}}.'; got "
                f"{_shown(template)}. Braces of its own are doubled: {{{{ and }}}}."
            )
    return listed


def _shown(template: Any) -> str:
    shown = repr(template)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


def require_candidates(label_texts: Iterable[str], labels: Iterable[str]) -> None:
    """Raises:
    ZeroShotError: a text for something that is not among the candidate labels.
    """
    labels = list(labels)
    unknown = sorted(set(map(str, label_texts)) - set(labels))
    if unknown:
        raise ZeroShotError(
            f"Texts for {', '.join(unknown)}, but the candidate labels are {', '.join(labels)}. Take them out, "
            "or name them as the labels are."
        )


def fill_templates(
    labels: Sequence[str], templates: Sequence[str], label_texts: Mapping[str, str] | None = None
) -> list[list[str]]:
    """What is said of each label: for each template, one text a label.

    Args:
        label_texts: label -> what stands in the template instead of its name, such as "a small river" for "brook".

    Raises:
        ZeroShotError: a text for something that is not among the labels.
    """
    label_texts = label_texts or {}
    require_candidates(label_texts, labels)
    words = [label_texts.get(label, label) for label in labels]
    return [[template.format(word) for word in words] for template in templates]
