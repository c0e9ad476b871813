"""The house stands: imports go down only, in no circle, in short chains. A string that names a module is an import."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

import hf_fsl

PACKAGE = Path(hf_fsl.__file__).parent
FLOORS = [
    {"core"},
    {"config"},
    {"models", "data", "metrics", "hub"},
    {"training", "zero_shot"},
    {"few_shot", "search", "contrastive"},
    {"__main__", "auto", "cli"},
]
"""As in pyproject's import-linter contract, from the ground up. Only on the top floor rooms know each other."""
LONGEST_CHAIN = 10
"""Files, each imported by the one before."""


def strings(path: Path) -> Iterator[str]:
    """The strings of a file that are not docstrings: what is imported by name, or run as a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Module -> modules it imports, at its top, within functions, or by a string."""
    graph = grimp.build_graph("hf_fsl", cache_dir=None)
    found = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    for module, names in found.items():
        file = PACKAGE.joinpath(*module.split(".")[1:])
        path = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        for text in strings(path):
            for name in re.findall(r"\bhf_fsl(?:\.\w+)+", text):
                while name not in found:
                    name = name.rpartition(".")[0]
                names.add(name)
        # The package's own name gives a version, and the public names lazily.
        names -= {module, "hf_fsl"}
    del found["hf_fsl"]
    return found


def test_rooms_import_only_from_floors_below(imports):
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    room = {module: module.split(".")[1] for module in imports}
    assert set(room.values()) == set(floor)
    wrong = [
        f"{module} imports {name}"
        for module, names in imports.items()
        for name in names
        if room[module] != room[name] and floor[room[module]] <= min(floor[room[name]], len(FLOORS) - 2)
    ]
    assert not wrong, wrong


def test_no_files_import_each_other_in_a_circle(imports):
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_chains_of_imports_are_short(imports):
    chain: dict[str, list[str]] = {}
    for module in TopologicalSorter(imports).static_order():
        chain[module] = [module, *max((chain[name] for name in imports[module]), key=len, default=[])]
    longest = max(chain.values(), key=len)
    assert len(longest) <= LONGEST_CHAIN, " -> ".join(longest)
