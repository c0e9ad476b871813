"""ContrastiveRecord: what a run of ``train_contrastive`` was given, did and measured, as JSON.

Its card renders from it alone. ``None`` means unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from hf_fsl.core.errors import UserError
from hf_fsl.core.records import CostRecord, DataRecord, Measurement
from hf_fsl.core.serialization import Plain, from_plain, json_object

SCHEMA_VERSION = 1


@dataclass(kw_only=True)
class ZeroShotMeasurement:
    """A share of pictures that came out right, beside what guessing among so many candidates would give."""

    measurement: Measurement
    chance: float
    candidates: int


@dataclass(kw_only=True)
class TowerRecord:
    """One encoder, where it came from and how it was trained."""

    source: str
    revision: str | None = None
    license: str | None = None
    architecture: str
    method: str
    total_parameters: int
    trainable_parameters: int
    adapter: dict[str, Any] = field(default_factory=dict)
    """The PEFT config, where there was an adapter."""


@dataclass(kw_only=True)
class ContrastiveRecord(Plain):
    """A run, from what it was given to what it measured."""

    command: str
    config: dict[str, Any]
    created: str
    """UTC, ISO 8601."""
    data: DataRecord
    architecture: str
    image: TowerRecord
    text: TowerRecord
    steps: int
    best_step: int | None
    training_seconds: float
    validation: dict[str, float]
    """Of the published weights, which were chosen by it."""
    tests: dict[str, dict[str, ZeroShotMeasurement]]
    """Split (``test`` and the shifts) -> metric -> what was measured, once."""
    temperature: float
    candidate_labels: list[str]
    """Class names of the test split, for the card's snippet."""
    cost: CostRecord
    environment: dict[str, str] = field(default_factory=dict)
    """Package -> version."""
    recipe: str = "train_contrastive"
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises UserError for a record of another recipe or schema, and PlainError for one that is damaged."""
        values = json_object(text)
        found = (values.get("recipe"), values.get("schema_version"))
        if found != ("train_contrastive", SCHEMA_VERSION):
            raise UserError(
                f"This is read as a record of train_contrastive, schema {SCHEMA_VERSION}; the file is of {found[0]}, "
                f"schema {found[1]!r}. Install the hf_fsl version that wrote it, or give another record."
            )
        return from_plain(cls, values)
