"""What the Makefile and the workflow lean on: the lowest versions, and the tests for systems other than Linux."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_lowest_versions_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    given = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    matches = [re.match(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", requirement) for requirement in given]
    bounds = {match[1]: match[2] for match in matches if match}
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pins == bounds


def test_the_tests_for_other_systems_are_there():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    paths = re.search(r"^UNIT := (.*)$", makefile, re.MULTILINE)[1].split()
    assert paths and not [path for path in paths if not (ROOT / path).exists()]
