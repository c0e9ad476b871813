"""Where an adapter may sit: the sites of an encoder by layer and by group, and what each costs."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, get_args

from torch import nn

from hf_fsl.config.search_space import SiteGroup
from hf_fsl.models.adapters.targets import feedforward_sites, linear_sites, norm_sites
from hf_fsl.search.errors import SearchError

GROUPS: tuple[SiteGroup, ...] = get_args(SiteGroup)

_QUERY_VALUE = re.compile(
    r"(query|value|[qv]_proj|[qv]_lin|(query|value)_proj|[qv]|w?qkv|qkv_proj|query_key_value|c_attn|in_proj)$", re.I
)
"""Fused projections are among them: they hold the query and the value."""
_KEY = re.compile(r"(key|k_proj|k_lin|key_proj|k)$", re.I)
_ATTENTION = re.compile(r"attn|attention", re.I)


@dataclass(frozen=True)
class Site:
    """A linear layer (or convolution) that can be adapted."""

    name: str
    """Full name in the model."""
    layer: int
    group: SiteGroup
    fan_in: int
    """Inputs of one output: with a convolution, channels times the kernel's size."""
    fan_out: int
    narrowing: bool
    """Fewer outputs than inputs, as the second layer of a feed-forward block: IA3 scales its inputs."""
    linear: bool


@dataclass(frozen=True)
class Norm:
    """A normalisation layer."""

    name: str
    layer: int
    parameters: int


@dataclass(frozen=True)
class Sites:
    """All that a search needs to know of a model.

    ``layers`` are the names of the encoder's layers, in order; ``head`` the modules of the classification head.
    """

    layers: tuple[str, ...]
    sites: tuple[Site, ...]
    norms: tuple[Norm, ...]
    head: tuple[str, ...]
    head_parameters: int
    model_parameters: int
    """Of the whole model, head included."""
    slots: dict[tuple[int, SiteGroup], tuple[Site, ...]] = field(init=False, repr=False, compare=False)
    """(layer, group) -> its sites, which share a rank."""

    def __post_init__(self) -> None:
        slots: dict[tuple[int, SiteGroup], tuple[Site, ...]] = {}
        for site in self.sites:
            slots[site.layer, site.group] = (*slots.get((site.layer, site.group), ()), site)
        object.__setattr__(self, "slots", slots)


def find_sites(model: nn.Module, head: Collection[str]) -> Sites:
    """The sites of any Hub encoder, from its module tree.

    A layer is an element of a list of modules of one class; what stands outside of such (a pooler, a projection of
    embeddings) is not searched. Within attention the query, the value and fused projections are ``attention_qv``, the
    key and the output ``attention_ko``; all else is ``feed_forward``.

    Args:
        model: with its classification head.
        head: names of the modules of the head (:func:`hf_fsl.models.backbones.classification.head_modules`).

    Raises:
        SearchError: nothing in the model can be adapted.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    linear, norms = linear_sites(model, head), norm_sites(model, head)
    owners = {name: _layer(name, modules) for name in modules if name in linear or name in norms}
    adapted = {owners[name] for name in linear} - {None}
    layers = tuple(name for name in modules if name in adapted)
    if not layers:
        raise SearchError(
            f"{type(model).__name__} has no layers that an adapter could be searched for: none of its "
            f"{len(linear)} linear layers and convolutions is part of a list of layers. Choose another backbone."
        )
    index = {name: position for position, name in enumerate(layers)}
    narrowing = set(feedforward_sites(linear))
    sites = tuple(
        _site(name, module, index[owner], owner, name in narrowing)
        for name, module in linear.items()
        if (owner := owners[name]) is not None
    )
    inside = [(name, module, owners[name]) for name, module in norms.items()]
    return Sites(
        layers=layers,
        sites=sites,
        norms=tuple(
            Norm(name, index[owner], sum(p.numel() for p in module.parameters(recurse=False)))
            for name, module, owner in inside
            if owner is not None and owner in index
        ),
        head=tuple(head),
        head_parameters=sum(
            p.numel() for n, p in model.named_parameters() if any(n.startswith(f"{part}.") for part in head)
        ),
        model_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _layer(name: str, modules: dict[str, Any]) -> str | None:
    """The innermost element of a uniform list that ``name`` lies in. T5's list of attention and feed-forward is not
    uniform, ConvNeXt's list of layers in a list of stages is."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if parts[end - 1].isdigit():
            siblings = list(modules[".".join(parts[: end - 1])].children())
            if len({type(sibling) for sibling in siblings}) == 1:
                return ".".join(parts[:end])
    return None


def _site(name: str, module: Any, layer: int, owner: str, narrowing: bool) -> Site:
    leaf, inside = name.rpartition(".")[2], name.removeprefix(f"{owner}.").rpartition(".")[0]
    group: SiteGroup = "feed_forward"
    if _QUERY_VALUE.match(leaf):
        group = "attention_qv"
    elif _KEY.match(leaf) or _ATTENTION.search(inside):
        group = "attention_ko"
    if isinstance(module, nn.Conv2d):
        fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        fan_out = module.out_channels
    elif isinstance(module, nn.Linear):
        fan_in, fan_out = module.in_features, module.out_features
    else:  # transformers' Conv1D holds its weight transposed
        fan_in, fan_out = module.weight.shape
    return Site(name, layer, group, fan_in, fan_out, narrowing, isinstance(module, nn.Linear))
