"""Where an adapter goes: target modules found in any encoder's module tree."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from torch import nn

from hf_fsl.core.errors import UserError

_KEY_VALUE = re.compile(r"(key|value|[kv]_proj|[kv]_lin|[kv]|w?qkv|query_key_value|c_attn|in_proj)$", re.IGNORECASE)


class AdapterError(UserError, ValueError):
    """An adapter that cannot be attached as asked."""


def linear_sites(model: nn.Module, head: Collection[str]) -> dict[str, nn.Module]:
    """Full name -> module of every layer outside ``head`` that a low-rank update can be added to.

    Linear layers; where an encoder has none (ResNet), its ungrouped convolutions.
    """
    body = {name: module for name, module in model.named_modules() if not inside(name, head)}
    linear = {n: m for n, m in body.items() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"}
    return linear or {n: m for n, m in body.items() if isinstance(m, nn.Conv2d) and m.groups == 1}


def norm_sites(model: nn.Module, head: Collection[str]) -> dict[str, nn.Module]:
    """Full name -> module of every normalisation layer outside ``head``."""
    return {
        name: module
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and any(True for _ in module.parameters(recurse=False))
        and not inside(name, head)
    }  # fmt: skip


def key_value_sites(sites: dict[str, nn.Module]) -> list[str]:
    """The attention key and value projections among ``sites``."""
    return [name for name in sites if _KEY_VALUE.match(name.rpartition(".")[2])]


def feedforward_sites(sites: dict[str, nn.Module]) -> list[str]:
    """The projections among ``sites`` that narrow: the second layer of each feed-forward block."""
    return [n for n, m in sites.items() if isinstance(m, nn.Linear) and m.in_features > m.out_features]


def select(sites: Sequence[str], wanted: Sequence[str] | str | None, layers: Collection[int] | None) -> list[str]:
    """The sites that ``wanted`` names, in layers ``layers``.

    Args:
        sites: full module names that can take the adapter.
        wanted: full names or suffixes (``query``, ``attention.self.query``), one regular expression for the full
            name, or None and ``"all-linear"`` for all.
        layers: indices of the encoder's layers; None for all of them, and for what stands outside the layers too.

    Raises:
        AdapterError: a target or the layers match nothing.
    """
    if wanted is None or wanted == "all-linear":
        chosen = list(sites)
    elif isinstance(wanted, str):
        try:
            chosen = [name for name in sites if re.fullmatch(wanted, name)]
        except re.error as error:
            raise AdapterError(
                f"target_modules: {wanted!r} is no regular expression ({error}). Correct it, or give a list of names."
            ) from error
        _require(chosen, wanted, sites)
    else:
        for target in wanted:
            _require([name for name in sites if matches(name, target)], target, sites)
        chosen = [name for name in sites if any(matches(name, target) for target in wanted)]
    if layers is None:
        return chosen
    kept = [name for name in chosen if _layer(name) in layers]
    if not kept:
        known = sorted({index for name in chosen if (index := _layer(name)) is not None})
        raise AdapterError(f"layers_to_transform={list(layers)} matches no layer; the encoder has {known}.")
    return kept


def compress(chosen: Sequence[str], model: nn.Module) -> list[str]:
    """Module suffixes that stand for exactly ``chosen`` where there are such, else the full names."""
    leaves = sorted({name.rpartition(".")[2] for name in chosen})
    matched = {name for name, _ in model.named_modules() if any(matches(name, leaf) for leaf in leaves)}
    return leaves if matched == set(chosen) else list(chosen)


def _require(matched: Sequence[str], target: str, sites: Iterable[str]) -> None:
    if not matched:
        leaves = sorted({name.rpartition(".")[2] for name in sites})
        raise AdapterError(
            f"target_modules: {target!r} matches no module that can take this adapter. "
            f"The model has modules ending in: {', '.join(leaves)}. Name some of these, or leave target_modules out."
        )


def matches(name: str, target: str) -> bool:
    """Whether a module is meant by ``target``, its full name or the end of it, as PEFT reads it."""
    return name == target or name.endswith(f".{target}")


def inside(name: str, parents: Collection[str]) -> bool:
    """Whether a module is one of ``parents`` or in one of them."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def _layer(name: str) -> int | None:
    match = re.search(r"\.(\d+)(?=\.|$)", name)
    return int(match[1]) if match else None
