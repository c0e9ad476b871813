from __future__ import annotations

import pytest

from hf_fsl.config.contrastive import caption_columns
from hf_fsl.core.placeholders import has_one_place, plain_places


@pytest.mark.parametrize(
    ("template", "places"),
    [
        ("a {}", [""]),
        ("{{{}}}", [""]),
        ("{name} of {kind}", ["name", "kind"]),
        ("{food-fruit}", ["food-fruit"]),
        ("none", []),
        ("{{}}", []),
        ("{:>1999999999}", None),
        ("{:{}}", None),
        ("{!r}", None),
        ("{name.__class__}", None),
        ("{name[0]}", None),
        ("{", None),
        (3, None),
    ],
)
def test_places_are_plain(template, places):
    assert plain_places(template) == places
    assert has_one_place(template) == (places == [""])


@pytest.mark.parametrize("template", ["{name:>1999999999}", "{name.__class__}", "{} {name}", "none"])
def test_captions_name_columns_and_nothing_more(template):
    assert caption_columns(template) == []
    assert caption_columns("{name} of {kind}") == ["name", "kind"]
