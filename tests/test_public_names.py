"""What hf_fsl exports: it can be had, is written about, and is what the documentation imports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hf_fsl

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "model_cards").glob("*/README.md")),
]
NAMES = set(hf_fsl.__all__) - {"__version__"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_can_be_imported(name):
    assert getattr(hf_fsl, name) is not None


def test_what_is_exported_is_what_the_documentation_imports_and_lists():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    lines = re.findall(r"^from hf_fsl import ([^(\n`]+)", text, re.MULTILINE)
    imported = {name.strip() for line in lines for name in line.split(",")}
    assert imported <= NAMES
    listed = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "python.md").read_text(encoding="utf-8")))
    assert listed - {"encode", "RECIPE"} >= NAMES


def test_other_modules_are_not_imported_by_the_documentation():
    for page in PAGES:
        found = re.findall(r"^\s*(?:from|import) (hf_fsl\.[\w.]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(found) <= {"hf_fsl.auto"}, page


def test_an_old_name_says_what_it_is_called_now():
    with pytest.raises(AttributeError, match="hf_fsl.train is now called hf_fsl.training_loop"):
        hf_fsl.train  # noqa: B018
