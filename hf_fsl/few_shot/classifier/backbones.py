"""A classifier's backbone, loaded once for all the fits of a cross-validation."""

from __future__ import annotations

import functools
from typing import Any

from hf_fsl.few_shot.classifier.support import FewShotError
from hf_fsl.models.backbones import Backbone
from hf_fsl.models.export.stock import stock_pooling

STOCK = "stock"
"""As a pooling: whatever the stock class of the backbone's family classifies."""


def load_backbone(name: str, *, pooling: str | None = None, **options: Any) -> Backbone:
    """A backbone by its name; asked for again, the one that is loaded already. Nobody changes it.

    Args:
        pooling: as of ``Backbone.from_pretrained``, or ``stock``, so that heads on it fold into the stock class.
        options: revision, device, max_length, prompt, prompt_name, trust_remote_code, see there.

    Raises:
        BackboneError: it cannot be loaded.
        FewShotError: ``stock``, and no stock class of its family is known.
    """
    return _load(name, pooling, tuple(sorted(options.items())))


@functools.lru_cache(maxsize=2)
def _load(name: str, pooling: Any, options: tuple[tuple[str, Any], ...]) -> Backbone:
    backbone = Backbone.from_pretrained(name, pooling=None if pooling == STOCK else pooling, **dict(options))
    if pooling != STOCK:
        return backbone
    known = stock_pooling(backbone.model)
    if known is None:
        raise FewShotError(
            f"pooling='stock': no stock class with a linear head is known for {name}, a "
            f"{type(backbone.model).__name__}. Leave pooling out; the model is then published as a class of hf_fsl."
        )
    return Backbone.from_pretrained(name, pooling=known, **dict(options))
