"""One point of the search space, in canonical form: what is the same adapter is the same value."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from hf_fsl.config.search_space import RANKED, Method
from hf_fsl.config.sections import Loss
from hf_fsl.search.errors import SearchError
from hf_fsl.search.space.sites import GROUPS, Site, Sites

Ranks = tuple[tuple[int, ...], ...]

REFERENCE_RANK = 8
"""The rank at which rsLoRA's multiplier is ``scaling``; at rank r it is scaling · sqrt(8 / r)."""
EVEN_SCALING = 2.0
"""Of an adapter of rank 2 everywhere, in :func:`with_even_steps`."""


_RENAMED_METHODS = {"none": "head"}
"""Method in reports until 0.2 -> method now."""


@dataclass(frozen=True)
class Architecture:
    """An adapter and how it is trained.

    Canonical on construction: choices that the method does not have are put to their neutral value, an adapter at no
    site becomes ``head``, VeRA's sites share the largest rank, and sites of methods without rank are 1 or 0.

    Attributes:
        ranks: a row for each layer, in it a rank for each of :data:`GROUPS`; 0 leaves the sites out.
        scaling: of the low-rank update B·A (see ``SearchSpaceConfig``).
    """

    method: Method
    ranks: Ranks
    scaling: float = 1.0
    dropout: float = 0.0
    learning_rate: float = 1e-3
    steps: int = 100
    loss: Loss = "cross_entropy"

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise SearchError("Not an architecture: " + "; ".join(problems) + ".")
        ranks = tuple(tuple(int(rank) for rank in row) for row in self.ranks)
        largest = max((rank for row in ranks for rank in row), default=0)
        method: Method = self.method if largest else "head"
        if method == "head":
            ranks = tuple((0,) * len(GROUPS) for _ in ranks)
        elif method == "vera":
            ranks = tuple(tuple(largest if rank else 0 for rank in row) for row in ranks)
        elif method == "ln_tuning":
            ranks = tuple((int(any(row)),) * len(GROUPS) for row in ranks)
        elif method == "ia3":
            ranks = tuple(tuple(int(rank > 0) for rank in row) for row in ranks)
        canonical = {
            "method": method,
            "ranks": ranks,
            "scaling": float(self.scaling) if method in ("lora", "rslora", "dora") else 1.0,
            "dropout": float(self.dropout) if method in RANKED else 0.0,
            "learning_rate": float(self.learning_rate),
            "steps": int(self.steps),
        }
        for name, value in canonical.items():
            object.__setattr__(self, name, value)

    @classmethod
    def uniform(cls, rank: int, layers: int, method: Method = "lora", **choices: Any) -> Architecture:
        """The same rank at every site of every layer."""
        return cls(method, tuple((rank,) * len(GROUPS) for _ in range(layers)), **choices)

    @property
    def first_layer(self) -> int | None:
        """The lowest adapted layer; None without an adapter."""
        return next((layer for layer, row in enumerate(self.ranks) if any(row)), None)

    @property
    def key(self) -> str:
        """16 hexadecimal digits that stand for this architecture in file names and storages."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def rank_of(self, site: Site) -> int:
        """The rank at a site."""
        return self.ranks[site.layer][GROUPS.index(site.group)]

    def replace(self, **choices: Any) -> Architecture:
        """The architecture with other choices."""
        return dataclasses.replace(self, **choices)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in JSON."""
        return {**dataclasses.asdict(self), "ranks": [list(row) for row in self.ranks]}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        """What :meth:`to_dict` gave.

        Raises:
            SearchError: fields are missing, unknown, or not what an architecture holds.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        odd = sorted(map(str, fields.symmetric_difference(values)))
        if odd:
            raise SearchError(f"An architecture has the fields {', '.join(sorted(fields))}; differing: {odd}.")
        try:
            method = _RENAMED_METHODS.get(values["method"], values["method"])
            return cls(**{**values, "method": method, "ranks": tuple(tuple(row) for row in values["ranks"])})
        except TypeError as error:
            raise SearchError(f"Not an architecture: {error}.") from error

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        try:
            return cls.from_dict(json.loads(text))
        except (json.JSONDecodeError, AttributeError, TypeError) as error:
            raise SearchError(f"Not an architecture in JSON: {text[:80]!r} ({error}).") from error

    def __str__(self) -> str:
        rows = " ".join("-".join(map(str, row)) for row in self.ranks) if self.method != "head" else "no adapter"
        extra = f", scaling {self.scaling:g}" if self.method in ("lora", "rslora", "dora") else ""
        return f"{self.method} [{rows}]{extra}, learning rate {self.learning_rate:g}, {self.steps} steps, {self.loss}"


def uniform_ranks(rank: int, sites: Sites, layers: Collection[int] | None = None) -> tuple[tuple[int, ...], ...]:
    """The same rank at every site that a model has (in some of its layers)."""
    return tuple(
        tuple(rank if (layer, group) in sites.slots and (layers is None or layer in layers) else 0 for group in GROUPS)
        for layer in range(len(sites.layers))
    )


def adapter_parameters(architecture: Architecture, sites: Sites) -> int:
    """Trainable parameters of the adapter, the head not counted; exact, without building it.

    Raises:
        SearchError: the architecture does not fit the model.
    """
    check_fit(architecture, sites)
    if architecture.method == "head":
        return 0
    if architecture.method == "ln_tuning":
        return sum(norm.parameters for norm in sites.norms if any(architecture.ranks[norm.layer]))
    return sum(
        site_parameters(architecture.method, site, rank)
        for site in adapted_sites(architecture, sites)
        if (rank := architecture.rank_of(site))
    )


def with_even_steps(architecture: Architecture, sites: Sites, scalings: Sequence[float]) -> Architecture:
    """With the scaling, of those there are, at which an optimiser step moves the model as far whatever the ranks.

    A step of Adam is as long for one rank-one part as for another, and R of them, pulling each its own way, move the
    model √R times as far. So the scaling falls as 1/√R, as rsLoRA's does within a layer (Kalajdzievski 2023,
    arXiv:2312.03732), and is ``EVEN_SCALING`` where R is that of rank 2 at every site.
    """
    parts = sum(map(architecture.rank_of, sites.sites))
    if not parts:
        return architecture
    wanted = EVEN_SCALING * math.sqrt(2 * len(sites.sites) / parts)
    return architecture.replace(scaling=min(scalings, key=lambda scaling: abs(math.log(scaling / wanted))))


def trainable_parameters(architecture: Architecture, sites: Sites) -> int:
    """Trainable parameters of adapter and head."""
    return adapter_parameters(architecture, sites) + sites.head_parameters


def site_parameters(method: Method, site: Site, rank: int) -> int:
    """What ``method`` trains at one site: LoRA r(d_in + d_out), DoRA d_out more, VeRA r + d_out, IA3 one a unit."""
    if method == "ia3":
        return site.fan_in if site.narrowing else site.fan_out
    if method == "vera":
        return rank + site.fan_out
    return rank * (site.fan_in + site.fan_out) + (site.fan_out if method == "dora" else 0)


def adapted_sites(architecture: Architecture, sites: Sites) -> list[Site]:
    """The sites where the adapter sits. IA3 takes of a feed-forward block the layer that narrows, where it has one."""
    chosen = [site for site in sites.sites if architecture.rank_of(site)]
    if architecture.method != "ia3":
        return chosen
    narrowed = {site.layer for site in chosen if site.narrowing and site.group == "feed_forward"}
    return [s for s in chosen if s.group != "feed_forward" or s.narrowing or s.layer not in narrowed]


def check_fit(architecture: Architecture, sites: Sites) -> None:
    """Raises SearchError where an architecture names layers or sites that a model does not have."""
    if len(architecture.ranks) != len(sites.layers):
        raise SearchError(
            f"An architecture of {len(architecture.ranks)} layers does not fit a model of {len(sites.layers)}."
        )
    if architecture.method in ("head", "ln_tuning"):
        return
    for layer, row in enumerate(architecture.ranks):
        for group, rank in zip(GROUPS, row, strict=True):
            if rank and (layer, group) not in sites.slots:
                raise SearchError(f"Layer {layer} ({sites.layers[layer]}) has no {group} site to adapt.")
    if architecture.method == "vera" and not all(site.linear for site in adapted_sites(architecture, sites)):
        raise SearchError("vera: PEFT has VeRA for linear layers only; leave it out of methods for this backbone.")


def _problems(architecture: Architecture) -> Sequence[str]:
    found = []
    for name, kind in (("method", Method), ("loss", Loss)):
        if getattr(architecture, name) not in get_args(kind):
            found.append(f"{name}: one of {', '.join(get_args(kind))}, got {getattr(architecture, name)!r}")
    for row in architecture.ranks:
        if len(row) != len(GROUPS) or any(not isinstance(rank, int) or rank < 0 for rank in row):
            found.append(f"ranks: {len(GROUPS)} whole numbers from 0 a layer ({', '.join(GROUPS)}), got {row}")
    for name in ("scaling", "learning_rate", "steps"):
        value = getattr(architecture, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            found.append(f"{name}: above 0, got {value!r}")
    if isinstance(architecture.dropout, bool) or not isinstance(architecture.dropout, (int, float)):
        found.append(f"dropout: a number, got {architecture.dropout!r}")
    elif not 0 <= architecture.dropout < 1:
        found.append(f"dropout: from 0 to below 1, got {architecture.dropout}")
    return found
