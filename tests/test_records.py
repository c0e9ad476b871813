"""Records that another version wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_fsl.errors import UserError
from hf_fsl.records import RunRecord

EXAMPLE = Path(__file__).parent / "hub" / "example_record.json"


def test_record_of_another_schema_is_refused():
    text = EXAMPLE.read_text().replace('"schema_version": 1', '"schema_version": 99')
    with pytest.raises(UserError, match="schema 1, the file has 99"):
        RunRecord.from_json(text)
