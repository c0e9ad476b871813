"""Tiny models with their sites."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # last: "conftest" stays that of all tests


@pytest.fixture
def model_and_sites(tiny_model: Any) -> Any:
    """kind -> a tiny classifier and its sites."""
    from hf_fsl.backbones.classification import head_modules
    from hf_fsl.search.space import find_sites

    def build(kind: str, **options: Any) -> Any:
        model = tiny_model(kind, **options).eval()
        return model, find_sites(model, head_modules(model, set()))

    return build
