"""What the package says it needs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    given = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    declared = {_plain(re.match(r"[\w.-]+", requirement)[0]) for requirement in given}
    known, missing = packages_distributions(), {}
    for path in (ROOT / "hf_fsl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} - {"hf_fsl", *sys.stdlib_module_names}:
                if not declared & {_plain(distribution) for distribution in known.get(name, [name])}:
                    missing.setdefault(name, path.name)
    assert not missing, missing


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
