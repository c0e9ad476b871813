from __future__ import annotations

import numpy as np
import pytest

from hf_fsl.zero_shot import ZeroShotError, as_labels, as_templates, fill_templates


@pytest.mark.parametrize(
    "given",
    [
        "food, river ,sun",
        "food,, river, sun,",  # the stock pipeline drops the empty ones
        ["food", "river", "sun"],
        np.array(["food", "river", "sun"]),
        dict.fromkeys(["food", "river", "sun"]).keys(),
        iter(["food", "river", "sun"]),
    ],
)
def test_labels_come_as_a_list_or_between_commas(given):
    labels = as_labels(given)
    assert labels == ["food", "river", "sun"] and all(type(label) is str for label in labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "got none"),
        ("", "got none"),
        (" , ", "got none"),
        ({"a", "b"}, "got set .*, which has no order: give a list"),
        ({"a": "b"}, "got dict"),
        (5, "got int 5"),
        (None, "got NoneType"),
        (["a", ""], "not empty"),
        (["a", 3], "got 3"),
        (["b", "a", "b"], "more than once: b"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(labels, message):
    with pytest.raises(ZeroShotError, match=message):
        as_labels(labels)


@pytest.mark.parametrize(
    "template",
    [
        "no place", "{} and {}", "{label}", "{", "{}{}", 3, "{:>1999999999}", "{!r}", "{0}", "{.upper}", "{[0]}",
        "{:{}}", "{} {label}",
    ],
)  # fmt: skip
def test_a_template_has_one_place_for_the_label(template):
    with pytest.raises(ZeroShotError, match="one place"):
        as_templates([template])


@pytest.mark.parametrize("templates", [None, 3])
def test_templates_are_texts(templates):
    with pytest.raises(ZeroShotError, match=f"got {templates}"):
        as_templates(templates)


def test_templates_and_descriptions_are_put_together():
    templates = as_templates(["a {}", "{{{}}}"])
    assert fill_templates(["cat", "dog"], templates, {"dog": "big dog"}) == [
        ["a cat", "a big dog"],
        ["{cat}", "{big dog}"],
    ]
    with pytest.raises(ZeroShotError, match="Texts for bird"):
        fill_templates(["cat"], templates, {"bird": "x"})
