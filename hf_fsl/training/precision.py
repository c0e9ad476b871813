"""bf16 where the processor multiplies it natively."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def use_bf16(choice: str, device: torch.device) -> bool:
    """Whether to compute in bf16: ``auto`` where the hardware has instructions for it."""
    if choice != "auto":
        return choice == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


@contextmanager
def fast_attention(model: Any, bf16: bool, device: torch.device) -> Iterator[None]:
    """On a CPU in bf16, attention by plain products: the fused one's backward pass takes five times as long."""
    if not (bf16 and device.type == "cpu"):
        yield
        return
    found = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    configs = [config for config in found.values() if hasattr(config, "_attn_implementation")]
    before = [config._attn_implementation for config in configs]
    for config, implementation in zip(configs, before, strict=True):
        if implementation == "sdpa":
            config._attn_implementation = "eager"
    try:
        yield
    finally:
        # Each its own, outer ones first: setting one sets those within, and convolutional towers have no fused one.
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation
