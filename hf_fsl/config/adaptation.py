"""How a backbone is adapted to a few labelled examples by a metric loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig:
    """The loss, what a batch is made of, and the optimisation. What is trained is the adapter's business."""

    loss: Literal["supervised_contrastive", "prototypical", "triplet"] = "supervised_contrastive"
    """Supervised contrastive; prototypical, every example against the class means without it; batch-hard triplet."""
    temperature: float = 0.1
    """Of supervised contrastive and prototypical."""
    margin: float | None = None
    """Of triplet; ``null``: softplus instead of a hinge."""
    steps: int = 40
    """Optimiser steps; time is in proportion to it. The defaults were best on supersense's validation split at 8 shots
    of 24 classes: twice as many steps cost accuracy there, also at half the learning rate."""
    batch_size: int = 48
    """Examples a step, over all processes; memory is in proportion to it, whatever the number of examples."""
    examples_per_class: int = 2
    """Of each class drawn into a batch, where the class has so many; a batch has batch_size / examples_per_class
    classes, or all there are, with more examples of each then."""
    learning_rate: float | None = None
    """``null``: 1e-3 for an adapter, 1e-4 in full."""
    weight_decay: float = 0.01
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: float = 0.06
    """Below 1: a share of all steps; from 1: a number of steps."""
    max_grad_norm: float | None = 1.0
    dropout: bool = False
    """Whether the backbone's own dropout is on. With few steps it costs more than it brings."""
    first_layer: int = 0
    """The upper-layers preset: only layers from this one on are trained, and what lies below is computed once an
    example. 0: all layers."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """``auto``: bf16 where the processor multiplies it natively, else float32. Weights stay as they are."""
    cache_bytes: int = 512 << 20
    """Of memory for what is computed once (pixels, states below ``first_layer``); more states go to a file."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        for name in ("temperature", "learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                yield f"{name}: above 0, got {value}"
        for name, least in (("steps", 1), ("examples_per_class", 2), ("first_layer", 0), ("cache_bytes", 0)):
            if getattr(self, name) < least:
                yield f"{name}: at least {least}, got {getattr(self, name)}"
        if self.batch_size < 2 * self.examples_per_class:
            yield (
                f"batch_size: at least 2 classes of examples_per_class={self.examples_per_class}, got "
                f"{self.batch_size}; a metric loss compares classes"
            )
        for name in ("weight_decay", "warmup_steps", "margin"):
            value = getattr(self, name)
            if value is not None and value < 0:
                yield f"{name}: at least 0, got {value}"
        if self.margin is not None and self.loss != "triplet":
            yield f"margin: belongs to loss: triplet, not {self.loss}; leave it out"
