"""The choices of an adapter search, as they stand in YAML. Nothing here loads torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from hf_fsl.config.sections import Loss

Method = Literal["lora", "rslora", "dora", "ia3", "ln_tuning", "vera", "head"]
SiteGroup = Literal["attention_qv", "attention_ko", "feed_forward"]

RANKED = ("lora", "rslora", "dora", "vera")
"""Methods whose sites have a rank; at the others a site is on (1) or off (0)."""


@dataclass(frozen=True, kw_only=True)
class SearchSpaceConfig:
    """What may be chosen for every part of an adapter architecture; a list of one is a fixed choice."""

    methods: list[Method] = field(default_factory=lambda: ["lora"])
    """``head``: no adapter, the classification head is trained alone."""
    site_groups: list[SiteGroup] = field(default_factory=lambda: ["attention_qv", "attention_ko", "feed_forward"])
    """Groups of sites that may be adapted; each has a rank of its own in every layer."""
    layers: list[int] | None = None
    """Layers that may be adapted; ``null``: all."""
    ranks: list[int] = field(default_factory=lambda: [0, 1, 2, 4, 8, 16])
    """0: the site is left out."""
    scaling: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0, 4.0])
    """Of the low-rank update: the same at every rank (lora, dora), or that at rank 8, falling with its root
    (rslora)."""
    dropout: list[float] = field(default_factory=lambda: [0.0, 0.1])
    learning_rate: list[float] = field(default_factory=lambda: [3e-4, 1e-3, 3e-3])
    steps: list[int] = field(default_factory=lambda: [50, 100])
    loss: list[Loss] = field(default_factory=lambda: ["cross_entropy"])
    min_parameters: int | None = None
    max_parameters: int | None = None
    """Trainable parameters of an architecture, the classification head among them."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        lists = ("methods", "site_groups", "layers", "ranks", "scaling", "dropout", "learning_rate", "steps", "loss")
        for name in lists:
            values = getattr(self, name)
            if values is not None and not values:
                yield f"{name}: at least one choice; the space is empty without"
            elif values is not None and len(set(values)) < len(values):
                yield f"{name}: each choice once, got {values}"
        for name, least in (("ranks", 0), ("layers", 0), ("steps", 1), ("min_parameters", 0), ("max_parameters", 0)):
            values = getattr(self, name)
            for value in values if isinstance(values, list) else [values]:
                if value is not None and value < least:
                    yield f"{name}: at least {least}, got {value}"
        for name in ("scaling", "learning_rate"):
            for value in getattr(self, name):
                if not (value > 0 and math.isfinite(value)):
                    yield f"{name}: above 0, got {value}"
        for value in self.dropout:
            if not 0 <= value < 1:
                yield f"dropout: from 0 to below 1, got {value}"
        adapting = [method for method in self.methods if method != "head"]
        if adapting and self.ranks and max(self.ranks) <= 0:
            yield f"ranks: one above 0, or {', '.join(adapting)} would adapt nothing; got {self.ranks}"
        least_of, most_of = self.min_parameters, self.max_parameters
        if least_of is not None and most_of is not None and least_of > most_of:
            yield f"min_parameters: at most max_parameters ({most_of}), got {least_of}"
