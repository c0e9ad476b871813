"""The rendered cards in model_cards/ are what their records give today."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_fsl.core.records import load_record
from hf_fsl.hub.cards import render_card

RECORDS = sorted((Path(__file__).parents[2] / "model_cards").glob("*/run_record.json"))


def test_there_is_a_rendered_card():
    assert RECORDS


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_rendered_card_is_up_to_date(path):
    assert path.with_name("README.md").read_text(encoding="utf-8") == render_card(load_record(path))
