"""SearchReport: what a search tried, what came of the best of it, and what that says, as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hf_fsl.core.errors import UserError
from hf_fsl.core.measurement import Measurement
from hf_fsl.core.serialization import Serializable, from_plain, json_object
from hf_fsl.search.pareto import front
from hf_fsl.search.study.trials import Tried, minimised

SCHEMA_VERSION = 1


@dataclass(kw_only=True)
class TrialRow:
    """One architecture that was tried."""

    number: int
    key: str
    architecture: dict[str, Any]
    description: str
    parameters: int
    values: dict[str, float]
    stopped: bool
    token_flops: float
    seconds: float
    on_front: bool = False
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class MemberRow:
    """An architecture that was trained again over seeds: of the front, or a baseline."""

    name: str
    architecture: dict[str, Any]
    description: str
    baseline: bool
    parameters: int
    seeds: list[int]
    validation: Measurement
    """The first objective, over seeds."""
    test: dict[str, Measurement]
    """Metric -> mean over seeds. ``ci95`` is over seeds and test examples together."""
    chosen: bool = False


@dataclass(kw_only=True)
class ComparisonRow:
    """Two retrained architectures on the same test examples: first minus second."""

    first: str
    second: str
    metric: str
    difference: float
    ci95: tuple[float, float]
    p: float
    p_holm: float

    @property
    def measurable(self) -> bool:
        return self.p_holm < 0.05


@dataclass(kw_only=True)
class Chance:
    """The member that is best on validation against always predicting the classes' training frequencies, on test."""

    loss: float
    """Log-loss of the frequencies."""
    best: str
    best_loss: float
    p: float
    """One-sided, paired over test examples; losses are means over seeds."""

    @property
    def beaten(self) -> bool:
        return self.p < 0.05


@dataclass(kw_only=True)
class SearchReport(Serializable):
    """A search, from its space to its verdict. Plain JSON; everything that is shown is in here."""

    INDENT: ClassVar[int] = 1

    name: str
    created: str
    strategy: str
    sampler: str
    objectives: list[str]
    identity: dict[str, Any]
    space: dict[str, Any]
    space_size: int
    trials: list[TrialRow]
    members: list[MemberRow] = field(default_factory=list)
    comparisons: list[ComparisonRow] = field(default_factory=list)
    diverged: dict[str, str] = field(default_factory=dict)
    """Name -> error of what could not be trained again at any of its learning rates."""
    chance: Chance | None = None
    token_flops: float = 0.0
    seconds: float = 0.0
    finish_token_flops: float = 0.0
    hypervolume: dict[str, Any] = field(default_factory=dict)
    """``reference`` (objective, log10 parameters), ``curve`` of [token-FLOPs, hypervolume], ``baselines``."""
    importances: dict[str, float] = field(default_factory=dict)
    matters: bool | None = None
    """Whether architecture mattered more than noise; None where it was not seen: nothing was trained again, or no two
    of like size were."""
    verdict: str = ""
    chosen: str | None = None
    chosen_because: str = ""
    peft_config: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def front(self) -> list[TrialRow]:
        return sorted((row for row in self.trials if row.on_front), key=lambda row: row.parameters)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SearchReport:
        """Raises UserError for a report of another schema."""
        version = values.get("schema_version")
        if version != SCHEMA_VERSION or "trials" not in values:
            raise UserError(
                f"This hf_fsl reads search reports of schema {SCHEMA_VERSION}, got {version!r}. Install the version "
                "that wrote it, or give the report.json of a search."
            )
        # Reports of 0.1 have the audit of a supernet's ranking, which there is no more.
        return from_plain(cls, {name: value for name, value in values.items() if name != "audit"})

    @classmethod
    def load(cls, path: str | Path) -> SearchReport:
        """Raises UserError where there is none."""
        try:
            return cls.from_dict(json_object(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is no report of a search: {error}") from error


def trial_rows(tried: Sequence[Tried], objectives: Sequence[str]) -> tuple[list[TrialRow], list[Tried]]:
    """A row for every trial, and the trials that ended with finite values, of which the front is made."""
    ended = [trial for trial in tried if not trial.stopped and _is_finite(trial, objectives)]
    values = np.array([[minimised(name, t.values[name]) for name in objectives] for t in ended])
    on_front = {ended[i].architecture.key for i in front(values)} if ended else set()
    firsts: dict[str, int] = {}
    for trial in ended:
        firsts.setdefault(trial.architecture.key, trial.number)
    rows = [
        TrialRow(
            number=trial.number,
            key=trial.architecture.key,
            architecture=trial.architecture.to_dict(),
            description=str(trial.architecture),
            parameters=trial.parameters,
            values=trial.values,
            stopped=trial.stopped,
            token_flops=trial.token_flops,
            seconds=trial.seconds,
            on_front=trial.architecture.key in on_front and firsts.get(trial.architecture.key) == trial.number,
            details=trial.details,
        )
        for trial in tried
    ]
    return rows, ended


def _is_finite(trial: Tried, objectives: Sequence[str]) -> bool:
    return all(math.isfinite(trial.values.get(name, math.nan)) for name in objectives)
