"""The adapter methods. A new one is a function here and a line in ``METHODS``, and its name in ``AdapterConfig``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import peft
from torch import nn

from hf_fsl.config.sections import AdapterConfig
from hf_fsl.models.adapters.targets import (
    AdapterError,
    compress,
    feedforward_sites,
    inside,
    key_value_sites,
    linear_sites,
    matches,
    norm_sites,
    select,
)

Build = Callable[[nn.Module, AdapterConfig, Sequence[str]], peft.PeftConfig]
"""(model, adapter, names of the head's modules) -> the PEFT config, its targets full names or suffixes of modules."""


def _lora(model: nn.Module, adapter: AdapterConfig, head: Sequence[str]) -> peft.PeftConfig:
    targets = select(list(linear_sites(model, head)), adapter.target_modules, adapter.layers_to_transform)
    for pattern in (*adapter.rank_pattern, *adapter.alpha_pattern):
        select(targets, rf"(.*\.)?({pattern})", None)
    return peft.LoraConfig(
        **_modules(model, adapter, head, targets),
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,  # type: ignore[arg-type]  # PEFT scales by any number
        lora_dropout=adapter.lora_dropout,
        rank_pattern=dict(adapter.rank_pattern),
        alpha_pattern=dict(adapter.alpha_pattern),
        use_rslora=adapter.method == "rslora",
        use_dora=adapter.method == "dora",
    )


def _vera(model: nn.Module, adapter: AdapterConfig, head: Sequence[str]) -> peft.PeftConfig:
    targets = select(list(linear_sites(model, head)), adapter.target_modules, adapter.layers_to_transform)
    return peft.VeraConfig(**_modules(model, adapter, head, targets), r=adapter.r, vera_dropout=adapter.lora_dropout)


def _ia3(model: nn.Module, adapter: AdapterConfig, head: Sequence[str]) -> peft.PeftConfig:
    sites = linear_sites(model, head)
    narrowing = feedforward_sites(sites)
    wanted = adapter.target_modules
    if wanted is None:
        wanted = [*key_value_sites(sites), *narrowing] or None
    targets = select(list(sites), wanted, adapter.layers_to_transform)
    # By their full names: a suffix would not tell the feed-forward layers from others.
    return peft.IA3Config(
        **_modules(model, adapter, head, targets) | {"target_modules": targets},
        feedforward_modules=[name for name in narrowing if name in targets],
    )


def _ln_tuning(model: nn.Module, adapter: AdapterConfig, head: Sequence[str]) -> peft.PeftConfig:
    targets = select(list(norm_sites(model, head)), adapter.target_modules, adapter.layers_to_transform)
    return peft.LNTuningConfig(**_modules(model, adapter, head, targets))


METHODS: dict[str, Build] = {
    "lora": _lora, "rslora": _lora, "dora": _lora, "ia3": _ia3, "ln_tuning": _ln_tuning, "vera": _vera,
}  # fmt: skip
"""Method -> what makes its PEFT config; ``full`` and ``head`` need none."""


def peft_config(model: nn.Module, adapter: AdapterConfig, head: Sequence[str] = ()) -> peft.PeftConfig:
    """The PEFT config for an adapter, its targets found in the model's module tree.

    Args:
        model: as it is before the adapter is attached; it is not changed.
        adapter: of one of the :data:`METHODS`.
        head: names of the modules of the classification head, which are trained in full.

    Raises:
        AdapterError: an unknown method, an option that the method does not have, or a target that matches nothing.
    """
    if adapter.method not in METHODS:
        renamed = "; none is now called full" if str(adapter.method) == "none" else ""
        raise AdapterError(f"adapter.method: full, head, {', '.join(METHODS)}; got {adapter.method!r}{renamed}.")
    build = METHODS[adapter.method]
    if build is not _lora and (adapter.rank_pattern or adapter.alpha_pattern):
        raise AdapterError(f"rank_pattern and alpha_pattern belong to lora, rslora and dora, not {adapter.method}.")
    return build(model, adapter, head)


def trained_in_full(model: nn.Module, modules_to_save: Sequence[str] | None, head: Sequence[str]) -> list[str]:
    """The head, and beside it the modules that are named, none inside another: PEFT's ``modules_to_save``.

    Args:
        modules_to_save: full names or ends of names.
        head: full names.
    """
    named = {
        name: [full for full, _ in model.named_modules() if matches(full, name)] for name in modules_to_save or ()
    }
    beside = [name for name, full in named.items() if not full or not all(inside(module, head) for module in full)]
    around = [module for name in beside for module in named[name]]
    return [*(part for part in head if not inside(part, around)), *beside]


def _modules(model: nn.Module, adapter: AdapterConfig, head: Sequence[str], targets: Sequence[str]) -> dict[str, Any]:
    return {
        "target_modules": compress(targets, model),
        "modules_to_save": trained_in_full(model, adapter.modules_to_save, head) or None,
    }
