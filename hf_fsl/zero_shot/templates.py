"""Candidate labels, and the templates that put them into words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hf_fsl.errors import UserError


class ZeroShotError(UserError, ValueError):
    """Labels, templates, inputs or a model that zero-shot classification cannot work with."""


def as_labels(labels: str | Sequence[str]) -> list[str]:
    """Candidate labels as a list: given as one, or as one string with commas between them.

    Raises:
        ZeroShotError: none, an empty one, one that is no text, or one that occurs twice.
    """
    given = [part.strip() for part in labels.split(",")] if isinstance(labels, str) else list(labels)
    if not given or given == [""]:
        raise ZeroShotError("Zero-shot classification needs at least one candidate label, got none.")
    wrong = [label for label in given if not isinstance(label, str) or not label.strip()]
    if wrong:
        raise ZeroShotError(f"A candidate label is a text that is not empty, got {wrong[0]!r} in {given}.")
    twice = sorted(label for label, count in Counter(given).items() if count > 1)
    if twice:
        raise ZeroShotError(f"Candidate labels must differ; more than once: {', '.join(twice)}. Give each once.")
    return given


def as_templates(templates: str | Sequence[str]) -> list[str]:
    """One template or several, as a list.

    Raises:
        ZeroShotError: none, or one without exactly one place ``{}`` for the label.
    """
    given = [templates] if isinstance(templates, str) else list(templates)
    if not given:
        raise ZeroShotError("At least one template is needed, such as 'This is about {}.', got none.")
    for template in given:
        try:
            filled = template.format("\0")
        except (IndexError, KeyError, ValueError, AttributeError):
            filled = ""
        if filled.count("\0") != 1:
            raise ZeroShotError(
                f"A template has one place {{}} for the label, such as 'This is about {{}}.', got {template!r}."
            )
    return given


def fill_templates(
    labels: Sequence[str], templates: Sequence[str], descriptions: Mapping[str, str] | None = None
) -> list[list[str]]:
    """What is said of each label: for each template, one text a label.

    Args:
        descriptions: label -> what stands in the template instead of its name, such as "a small river" for "brook".

    Raises:
        ZeroShotError: a description of something that is not among the labels.
    """
    descriptions = descriptions or {}
    unknown = sorted(set(descriptions) - set(labels))
    if unknown:
        raise ZeroShotError(f"Descriptions of {', '.join(unknown)}, but the candidate labels are {', '.join(labels)}.")
    words = [descriptions.get(label, label) for label in labels]
    return [[template.format(word) for word in words] for template in templates]
