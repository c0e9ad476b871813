"""How a supernet is trained, as it stands in YAML. Nothing here loads torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SupernetConfig:
    """One LoRA at the largest ranks of the space, trained so that each slice of it is an adapter."""

    max_steps: int = 100
    learning_rate: float = 1e-3
    head_learning_rate: float | None = None
    """Of the classification head, where it should differ from the adapter's."""
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 64
    sampled_members: int = 2
    """Random members a step, beside the largest and the smallest (the sandwich rule)."""
    scaling: float = 2.0
    """Of every member's update, the same at every rank."""
    dropout: float = 0.0
    weight_decay: float = 0.0
    initialization: Literal["gradient", "random"] = "gradient"
    """Of the rows of A: singular vectors of the loss's gradient, or random as in PEFT. B starts at zero."""
    head_steps: int = 0
    """Steps that the head is trained alone for, on features computed once, before anything else."""
    eval_steps: int = 10
    early_stopping_patience: int | None = 3
    """Evaluations of the largest member without an improvement before training stops."""
    reorder: Literal["auto", "always", "never"] = "auto"
    """Singular value decomposition of each site's update after training: ``auto`` keeps it if a sample of members has
    a lower validation loss with it."""
    members: int = 200
    """Slices that are scored by their inherited weights."""
    population: int = 40
    audit_sizes: int = 2
    """Sizes at which architectures are trained alone, to see whether the supernet ranks them; 0: no audit."""
    audit_anchors: int = 3
    """Architectures of each of these sizes,"""
    audit_seeds: list[int] = field(default_factory=lambda: [0, 1])
    """each trained with these seeds."""

    def problems(self) -> Iterator[str]:
        for name in ("learning_rate", "head_learning_rate", "scaling"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                yield f"{name}: above 0, got {value}"
        if not 0 <= self.dropout < 1:
            yield f"dropout: from 0 to below 1, got {self.dropout}"
        least = {
            "max_steps": 1, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "sampled_members": 0,
            "weight_decay": 0, "head_steps": 0, "eval_steps": 1, "early_stopping_patience": 1,
            "members": 1, "population": 2, "audit_sizes": 0, "audit_anchors": 2,
        }  # fmt: skip
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                yield f"{name}: at least {bound}, got {value}"
        if len(set(self.audit_seeds)) < max(2, len(self.audit_seeds)):
            yield f"audit_seeds: two at least, each once, to tell architectures from noise; got {self.audit_seeds}"
