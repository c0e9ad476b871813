"""The search space of one model: what may be drawn, changed and mixed, within the constraints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from hf_fsl.config.loading import build_config, load_config, to_dict
from hf_fsl.config.search_space import RANKED, Method, SearchSpaceConfig, SiteGroup
from hf_fsl.search.errors import SearchError
from hf_fsl.search.space.architecture import Architecture, Ranks, check_fit, trainable_parameters
from hf_fsl.search.space.sites import GROUPS, Sites

Slot = tuple[int, SiteGroup]


def ladder(config: SearchSpaceConfig, method: Method) -> list[int]:
    """The ranks that a site can have with a method, ascending: without ranks, 0 and 1 as far as the space has them."""
    if method == "head":
        return [0]
    return sorted(config.ranks if method in RANKED else {int(rank > 0) for rank in config.ranks})


def parameter_range(config: SearchSpaceConfig, sites: Sites, slots: Sequence[Slot], method: Method) -> tuple[int, int]:
    """Fewest and most trainable parameters, head included, of a method's architectures.

    The fewest are those of one slot at the lowest rank where the others may be left out.
    """
    if method == "head":
        return sites.head_parameters, sites.head_parameters
    rungs = ladder(config, method)

    def size(ranks: dict[Slot, int]) -> int:
        rows = tuple(tuple(ranks.get((layer, g), 0) for g in GROUPS) for layer in range(len(sites.layers)))
        return trainable_parameters(Architecture(method, rows), sites)

    most = size(dict.fromkeys(slots, rungs[-1]))
    if rungs[0] > 0:
        return size(dict.fromkeys(slots, rungs[0])), most
    return min(size({slot: rungs[1]}) for slot in slots), most


T = TypeVar("T")

TRIES = 200
"""Draws thrown away for a constraint before one is built to meet it."""

_TRAINING = ("scaling", "dropout", "learning_rate", "steps", "loss")


class Trial(Protocol):
    """What :meth:`SearchSpace.suggest` needs of an ``optuna.Trial``."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class SearchSpace:
    """The choices of a :class:`SearchSpaceConfig`, on the sites of a model.

    Raises:
        SearchError: the model has nothing that the space adapts, or no architecture meets the constraints.
    """

    config: SearchSpaceConfig
    sites: Sites
    slots: tuple[Slot, ...] = field(init=False, repr=False, compare=False)
    """(layer, group) that have a rank of their own, in order."""

    def __post_init__(self) -> None:
        problems = list(self.config.problems())
        layers = self.config.layers
        count = len(self.sites.layers)
        if layers is not None and (outside := sorted(layer for layer in layers if layer >= count)):
            problems.append(f"layers: the model has layers 0 to {count - 1}, got {outside}")
        slots = tuple(
            (layer, group)
            for layer in range(count)
            if layers is None or layer in layers
            for group in GROUPS
            if group in self.config.site_groups and (layer, group) in self.sites.slots
        )
        if not problems and not slots and set(self.config.methods) - {"head"}:
            there = sorted({group for _, group in self.sites.slots})
            problems.append(f"site_groups: {self.config.site_groups} are not in this model, which has {there}")
        object.__setattr__(self, "slots", slots)
        if not problems:
            problems += self._unmet()
        if problems:
            raise SearchError("The search space is empty or contradictory:\n  - " + "\n  - ".join(problems))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], sites: Sites) -> SearchSpace:
        """The space of plain values. Raises ConfigError, which lists every problem, or SearchError."""
        return cls(build_config(SearchSpaceConfig, values, "search space"), sites)

    @classmethod
    def from_yaml(cls, path: str | Path, sites: Sites, overrides: Sequence[str] = ()) -> SearchSpace:
        """The space of a YAML file. Raises ConfigError, which lists every problem, or SearchError."""
        return cls(load_config(SearchSpaceConfig, path, overrides), sites)

    def to_dict(self) -> dict[str, Any]:
        """The choices as plain values."""
        return to_dict(self.config)

    def size(self) -> int:
        """Points of the space, constraints not counted."""
        total = 0
        for method in self.config.methods:
            tuned = 1
            for name in _TRAINING:
                tuned *= len(getattr(self.config, name)) if _applies(name, method) else 1
            total += tuned * self._placements(method)
        return total

    def parameters(self, architecture: Architecture) -> int:
        """Trainable parameters, the head among them: what the constraints are about."""
        return trainable_parameters(architecture, self.sites)

    def violations(self, architecture: Architecture) -> list[str]:
        """Why an architecture is not of this space; empty where it is."""
        try:
            check_fit(architecture, self.sites)
        except SearchError as error:
            return [str(error)]
        found = []
        if architecture.method not in self.config.methods:
            found.append(f"method {architecture.method} is not among {self.config.methods}")
        for name in _TRAINING:
            allowed = getattr(self.config, name)
            if _applies(name, architecture.method) and getattr(architecture, name) not in allowed:
                found.append(f"{name} {getattr(architecture, name)} is not among {allowed}")
        if architecture.method != "head":
            rungs = ladder(self.config, architecture.method)
            open_slots = set(self.slots)
            for layer, row in enumerate(architecture.ranks):
                for group, rank in zip(GROUPS, row, strict=True):
                    if (layer, group) not in open_slots:
                        if rank and architecture.method != "ln_tuning":
                            found.append(
                                f"layer {layer}, {group}: not among the sites of the space, but of rank {rank}"
                            )
                    elif rank not in rungs:
                        found.append(f"layer {layer}, {group}: rank {rank} is not among {rungs}")
            if architecture.method == "ln_tuning":
                on = {layer for layer, _ in self.slots}
                found += [
                    f"layer {i}: not in the space" for i, r in enumerate(architecture.ranks) if any(r) and i not in on
                ]
        size, least, most = self.parameters(architecture), self.config.min_parameters, self.config.max_parameters
        if most is not None and size > most:
            found.append(f"{size:,} trainable parameters are above max_parameters={most:,}")
        if least is not None and size < least:
            found.append(f"{size:,} trainable parameters are below min_parameters={least:,}")
        return found

    def __contains__(self, architecture: object) -> bool:
        return isinstance(architecture, Architecture) and not self.violations(architecture)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """A random architecture: every choice uniform on its own; where constraints reject nearly all of these, one
        built up to a size within them."""
        for _ in range(TRIES):
            method = _choose(rng, self.config.methods)
            rungs = ladder(self.config, method)
            drawn = self._assemble(method, {slot: int(_choose(rng, rungs)) for slot in self.slots}, self._tuning(rng))
            if drawn in self:
                return drawn
        return self.sample_stratified(rng)

    def sample_stratified(self, rng: np.random.Generator) -> Architecture:
        """A random architecture, its adapter's parameters log-uniform between the smallest and the largest.

        Uniform ranks give nearly always middle sizes, by the law of large numbers.
        """
        for _ in range(TRIES):
            method = _choose(rng, self.config.methods)
            low, high = self._range(method)
            if low > high:
                continue
            head = self.sites.head_parameters
            low, high = max(low - head, 1), max(high - head, 1)
            target = head + math.exp(rng.uniform(math.log(low), math.log(high)))
            drawn = self._assemble(method, self._grow(rng, method, target), self._tuning(rng))
            if drawn in self:
                return drawn
        raise SearchError(
            f"No architecture found between min_parameters={self.config.min_parameters} and "
            f"max_parameters={self.config.max_parameters} in {TRIES} attempts. Widen the two."
        )

    def mutate(self, architecture: Architecture, rng: np.random.Generator, rate: float | None = None) -> Architecture:
        """A neighbour: each choice is changed with probability ``rate`` (None: two of them on average).

        Ranks go one step up or down their list, or anywhere with a chance of one half.
        """
        ranks = {(layer, group): architecture.ranks[layer][GROUPS.index(group)] for layer, group in self.slots}
        chance = rate if rate is not None else min(1.0, 2 / max(1, len(ranks) + len(_TRAINING)))
        for _ in range(TRIES):
            method = _choose(rng, self.config.methods) if rng.random() < chance else architecture.method
            rungs = ladder(self.config, method)
            moved = {slot: self._moved(rng, rank, rungs, chance) for slot, rank in ranks.items()}
            tuning = {name: getattr(architecture, name) for name in _TRAINING}
            tuning |= {name: value for name, value in self._tuning(rng).items() if rng.random() < chance}
            child = self._assemble(method, moved, tuning)
            if child != architecture and child in self:
                return child
        return self.sample(rng)

    def cross_over(self, first: Architecture, second: Architecture, rng: np.random.Generator) -> Architecture:
        """A child that has every choice, and every layer's row of ranks, from one of its parents."""
        for _ in range(TRIES):
            parents = (first, second) if rng.random() < 0.5 else (second, first)
            rows = tuple(parents[int(rng.random() < 0.5)].ranks[layer] for layer in range(len(self.sites.layers)))
            rungs = ladder(self.config, parents[0].method)
            ranks = {slot: _nearest(rows[slot[0]][GROUPS.index(slot[1])], rungs) for slot in self.slots}
            tuning = {name: getattr(parents[int(rng.random() < 0.5)], name) for name in _TRAINING}
            child = self._assemble(parents[0].method, ranks, tuning)
            if child in self:
                return child
        return self.mutate(first, rng)

    def suggest(self, trial: Trial) -> Architecture:
        """An architecture of an Optuna trial's choosing. It may break the constraints: see :meth:`violations`."""
        method = trial.suggest_categorical("method", list(self.config.methods))
        choices = {name: trial.suggest_categorical(name, list(getattr(self.config, name))) for name in _TRAINING}
        ranks = {}
        for layer, group in self.slots:
            rank = trial.suggest_categorical(f"rank.{layer}.{group}", list(self.config.ranks))
            ranks[layer, group] = _nearest(rank, ladder(self.config, method))
        return self._assemble(method, ranks, choices)

    def _assemble(self, method: Any, ranks: Mapping[Slot, int], tuning: Mapping[str, Any]) -> Architecture:
        return Architecture(method, self._rows(ranks), **tuning)

    def _rows(self, ranks: Mapping[Slot, int]) -> Ranks:
        return tuple(tuple(ranks.get((i, group), 0) for group in GROUPS) for i in range(len(self.sites.layers)))

    def _tuning(self, rng: np.random.Generator) -> dict[str, Any]:
        return {name: _choose(rng, getattr(self.config, name)) for name in _TRAINING}

    def _moved(self, rng: np.random.Generator, rank: int, rungs: Sequence[int], chance: float) -> int:
        rank = _nearest(rank, rungs)
        if rng.random() >= chance:
            return rank
        if rng.random() < 0.5:
            return int(_choose(rng, rungs))
        step = rungs.index(rank) + (1 if rng.random() < 0.5 else -1)
        return rungs[min(max(step, 0), len(rungs) - 1)]

    def _grow(self, rng: np.random.Generator, method: Any, target: float) -> dict[Slot, int]:
        """Random slots raised to random ranks, as long as the adapter stays within ``target`` parameters."""
        rungs = ladder(self.config, method)
        ranks = dict.fromkeys(self.slots, rungs[0])
        open_slots = list(self.slots)
        top = int(_choose(rng, rungs[1:])) if method == "vera" and len(rungs) > 1 else rungs[-1]
        while open_slots:
            slot = open_slots[int(rng.integers(len(open_slots)))]
            higher = [r for r in rungs if ranks[slot] < r <= top]
            if method == "vera":
                higher = higher[-1:]
            while higher:
                raised = {**ranks, slot: higher.pop(int(rng.integers(len(higher))))}
                if self.parameters(Architecture(method, self._rows(raised))) <= target:
                    ranks = raised
                    break
                higher = [rank for rank in higher if rank < raised[slot]]
            else:
                open_slots.remove(slot)
        return ranks

    def _range(self, method: Any) -> tuple[int, int]:
        low, high = parameter_range(self.config, self.sites, self.slots, method)
        least, most = self.config.min_parameters, self.config.max_parameters
        return max(low, least or 0), min(high, most if most is not None else high)

    def _unmet(self) -> list[str]:
        if any(low <= high for low, high in map(self._range, self.config.methods)):
            return []
        ranges = {m: parameter_range(self.config, self.sites, self.slots, m) for m in self.config.methods}
        there = ", ".join(f"{method} from {low:,} to {high:,}" for method, (low, high) in ranges.items())
        wanted = [
            f"{n}={v:,}" for n in ("min_parameters", "max_parameters") if (v := getattr(self.config, n)) is not None
        ]
        return [
            f"{', '.join(wanted)}: no architecture meets it. Trainable parameters, of which the head has "
            f"{self.sites.head_parameters:,}: {there}"
        ]

    def _placements(self, method: Any) -> int:
        if method == "head" or not self.slots:
            return 1
        rungs = ladder(self.config, method)
        nothing = int(rungs[0] == 0)
        if method == "vera":
            return (len(rungs) - nothing) * ((1 + nothing) ** len(self.slots) - nothing)
        slots = {layer for layer, _ in self.slots} if method == "ln_tuning" else self.slots
        return int(len(rungs)) ** len(slots) - nothing


def _applies(name: str, method: str) -> bool:
    if name == "scaling":
        return method in ("lora", "rslora", "dora")
    return name != "dropout" or method in ("lora", "rslora", "dora", "vera")


def _choose(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _nearest(rank: int, rungs: Sequence[int]) -> int:
    """The rank of a list that stands for another method's: 0 stays 0 where it may."""
    on = [rung for rung in rungs if bool(rung) == bool(rank)] or list(rungs)
    return min(on, key=lambda rung: abs(rung - rank))
