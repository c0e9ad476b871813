"""Dataclasses through JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from hf_fsl.core.serialization import Serializable, SerializationError, from_plain


@dataclass
class Inner:
    ends: tuple[float, float] | None = None


@dataclass
class Outer(Serializable):
    name: str
    inner: Inner
    maybe: Inner | None = None
    rows: list[Inner] = field(default_factory=list)
    by_name: dict[str, dict[str, Inner | None]] = field(default_factory=dict)
    tables: list[list[int]] | None = None
    free: dict[str, Any] = field(default_factory=dict)


def test_what_is_saved_comes_back_as_it_was(tmp_path):
    kept = Outer(
        "é", Inner((0.0, 1.0)), Inner(), [Inner((1.0, 2.0))], {"a": {"b": Inner((2.0, 3.0)), "c": None}},
        [[1], []], {"inner": {"ends": [1, 2]}},
    )  # fmt: skip
    path = kept.save(tmp_path / "kept.json")
    assert from_plain(Outer, json.loads(path.read_text(encoding="utf-8"))) == kept
    assert from_plain(Outer, {"name": "a", "inner": {}}) == Outer("a", Inner())


@pytest.mark.parametrize(
    "values",
    [
        {"name": "a"},
        {"name": "a", "inner": {}, "another": 1},
        {"name": 1, "inner": {}},
        {"name": "a", "inner": []},
        {"name": "a", "inner": {"ends": 3}},
        {"name": "a", "inner": {}, "rows": 5},
        {"name": "a", "inner": {}, "by_name": [1]},
        {"name": "a", "inner": {}, "tables": [["x"]]},
        [],
    ],
)
def test_fields_that_are_missing_unknown_or_of_other_types_are_an_error(values):
    with pytest.raises(SerializationError, match="it is no Outer"):
        from_plain(Outer, values)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"name": "a", "inn', b"[]", b"null", b"\xff\xfe", b"[" * 50_000, b'{"name": "a", "inner": 1}',
     b'{"name": ' + b"1" * 5_000 + b"}"],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "kept.json"
    path.write_bytes(content)
    with pytest.raises(SerializationError, match=r"kept.json is damaged: (it|'utf-8' codec) .* Write it anew"):
        Outer.load(path)
    with pytest.raises(FileNotFoundError):
        Outer.load(tmp_path / "nowhere.json")
