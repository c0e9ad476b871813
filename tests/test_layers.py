"""Imports go down only, and the public names are what they say."""

from __future__ import annotations

import ast
from pathlib import Path

import hf_fsl

PACKAGE = Path(hf_fsl.__file__).parent
FLOORS = [
    {"core"},
    {"config"},
    {"models", "data", "metrics", "hub"},
    {"training", "zero_shot"},
    {"few_shot", "search", "contrastive"},
    {"auto"},
    {"cli"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # Only what is published beside weights, where its folder has no name: see FewShotConfig.
            assert node.level == 0 or path.parent.name == "published" and node.level == 1, f"{path}: relative import"
            modules = [node.module or ""]
            if node.module == "hf_fsl":
                modules = [f"hf_fsl.{alias.name}" for alias in node.names]
        names |= {name.split(".")[1] for name in modules if name.startswith("hf_fsl.")}
    return names


def test_every_room_imports_only_from_floors_below():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own.startswith("_recipes"):
            continue
        for name in imported(path) - {own, "__version__"}:
            if own != "__init__" and FLOOR[name] >= FLOOR[own]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong, wrong


def test_every_public_name_can_be_imported():
    for name in hf_fsl.__all__:
        assert getattr(hf_fsl, name) is not None
