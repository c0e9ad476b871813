"""Tiny models with their sites."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def model_and_sites(tiny_model: Any) -> Any:
    """kind -> a tiny classifier and its sites."""
    from hf_fsl.models.backbones.classification import head_modules
    from hf_fsl.search.space import find_sites

    def build(kind: str, **options: Any) -> Any:
        model = tiny_model(kind, **options).eval()
        return model, find_sites(model, head_modules(model, set()))

    return build
