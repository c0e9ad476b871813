"""Imports go down only, and the public names are what they say."""

from __future__ import annotations

import ast
from pathlib import Path

import hf_fsl

PACKAGE = Path(hf_fsl.__file__).parent
LAYERS = [
    {"errors", "processes", "terminal", "placeholders", "__init__"},
    {"files", "exits"},
    {"plain"},
    {"config", "tasks", "records", "environment", "resources", "pictures", "label_values"},
    {"contrastive_record"},
    {"data", "inputs", "metrics", "backbones", "adapters", "episodes"},
    {"losses", "contrastive_losses", "metric_losses"},
    {"modeling", "training", "hub", "reporting", "baselines"},
    {"heads", "zero_shot", "transfer", "contrastive", "adaptation"},
    {"episodic"},
    {"classifier", "few_shot", "search", "pipelines"},
    {"auto"},
    {"cli"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # Only what is published beside weights, where its folder has no name: see FewShotConfig.
            assert node.level == 0 or path.parent.name == "modeling" and node.level == 1, f"{path}: relative import"
            modules = [node.module or ""]
            if node.module == "hf_fsl":
                modules = [f"hf_fsl.{alias.name}" for alias in node.names]
        names |= {name.split(".")[1] for name in modules if name.startswith("hf_fsl.")}
    return names


def test_every_module_imports_only_from_layers_below():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own.startswith("_recipes"):
            continue
        for name in imported(path) - {own, "__version__"}:
            if own != "__init__" and LAYER[name] >= LAYER[own]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong, wrong


def test_every_public_name_can_be_imported():
    for name in hf_fsl.__all__:
        assert getattr(hf_fsl, name) is not None
