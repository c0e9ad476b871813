"""An architecture as what others understand: a PEFT config, our AdapterConfig, the sections of a fine_tune YAML."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import peft

from hf_fsl.config.sections import AdapterConfig
from hf_fsl.search.errors import SearchError
from hf_fsl.search.space.architecture import REFERENCE_RANK, Architecture, adapted_sites, check_fit
from hf_fsl.search.space.sites import Sites


def to_peft(architecture: Architecture, sites: Sites) -> peft.PeftConfig:
    """A standard PEFT config that PEFT alone attaches and loads: full module names, a rank and an alpha for each.

    Raises:
        SearchError: there is no adapter in it (method ``head``), or it does not fit the model.
    """
    if architecture.method == "head":
        raise SearchError(
            "The architecture has no adapter (method head: the head is trained alone), so no PEFT config."
        )
    names = _names(architecture, sites)
    common: dict[str, Any] = {"target_modules": names, "modules_to_save": list(sites.head) or None}
    if architecture.method == "ln_tuning":
        return peft.LNTuningConfig(**common)
    if architecture.method == "ia3":
        narrowing = [site.name for site in sites.sites if site.narrowing and site.name in names]
        return peft.IA3Config(**common, feedforward_modules=narrowing)
    if architecture.method == "vera":
        largest = max(rank for row in architecture.ranks for rank in row)
        return peft.VeraConfig(**common, r=largest, vera_dropout=architecture.dropout)
    rank, ranks, alpha, alphas = _patterns(architecture, sites)
    return peft.LoraConfig(
        **common,
        r=rank,
        rank_pattern=ranks,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT scales by any number
        alpha_pattern=alphas,
        lora_dropout=architecture.dropout,
        use_rslora=architecture.method == "rslora",
        use_dora=architecture.method == "dora",
    )


def to_adapter_config(architecture: Architecture, sites: Sites) -> AdapterConfig:
    """The same adapter as an ``adapter`` section of our recipes."""
    if architecture.method == "head":
        return AdapterConfig(method="head")
    names = _names(architecture, sites)
    if architecture.method in ("ln_tuning", "ia3"):
        return AdapterConfig(method=architecture.method, target_modules=names)
    if architecture.method == "vera":
        largest = max(rank for row in architecture.ranks for rank in row)
        return AdapterConfig(method="vera", r=largest, lora_dropout=architecture.dropout, target_modules=names)
    rank, ranks, alpha, alphas = _patterns(architecture, sites)
    return AdapterConfig(
        method=architecture.method, r=rank, rank_pattern=ranks, lora_alpha=alpha, alpha_pattern=alphas,
        lora_dropout=architecture.dropout, target_modules=names,
    )  # fmt: skip


def _names(architecture: Architecture, sites: Sites) -> list[str]:
    check_fit(architecture, sites)
    if architecture.method == "ln_tuning":
        names = [norm.name for norm in sites.norms if any(architecture.ranks[norm.layer])]
        if not names:
            raise SearchError("ln_tuning: the layers chosen have no normalisation layers to train.")
        return names
    return [site.name for site in adapted_sites(architecture, sites)]


def _patterns(architecture: Architecture, sites: Sites) -> tuple[int, dict[str, int], float, dict[str, float]]:
    """The most frequent rank and the sites that differ from it; the alphas likewise."""
    ranks = {site.name: architecture.rank_of(site) for site in adapted_sites(architecture, sites)}
    common = Counter(ranks.values()).most_common(1)[0][0]
    differing = {name: rank for name, rank in ranks.items() if rank != common}
    if architecture.method == "rslora":
        return common, differing, architecture.scaling * math.sqrt(REFERENCE_RANK), {}
    alphas = {name: architecture.scaling * rank for name, rank in differing.items()}
    return common, differing, architecture.scaling * common, alphas
