"""ContrastiveRecord: what a run of ``train_contrastive`` was given, did and measured, as JSON.

Its card renders from it alone. ``None`` means unknown.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_fsl.errors import UserError
from hf_fsl.files import write_text
from hf_fsl.records import CostRecord, DataRecord, Measurement, SplitRecord

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
class ContrastiveRecord:
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

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ContrastiveRecord:
        """Raises UserError for a record of another recipe or schema."""
        values = json.loads(text)
        found = (values.get("recipe"), values.get("schema_version"))
        if found != ("train_contrastive", SCHEMA_VERSION):
            raise UserError(
                f"This is read as a record of train_contrastive, schema {SCHEMA_VERSION}; the file is of {found[0]}, "
                f"schema {found[1]!r}. Install the hf_fsl version that wrote it, or give another record."
            )
        data = values["data"]
        data["splits"] = {name: SplitRecord(**split) for name, split in data["splits"].items()}
        tests = {
            split: {name: _measurement(row) for name, row in rows.items()} for split, rows in values["tests"].items()
        }
        return cls(
            **{
                **values,
                "data": DataRecord(**data),
                "image": TowerRecord(**values["image"]),
                "text": TowerRecord(**values["text"]),
                "tests": tests,
                "cost": CostRecord(**values["cost"]),
            }
        )

    def save(self, path: str | Path) -> Path:
        """Writes the record to a temporary name and renames it. Returns the path."""
        return write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> ContrastiveRecord:
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


def _measurement(values: dict[str, Any]) -> ZeroShotMeasurement:
    inner = values["measurement"]
    ci95 = inner.get("ci95")
    measurement = Measurement(**{**inner, "ci95": tuple(ci95) if ci95 is not None else None})
    return ZeroShotMeasurement(**{**values, "measurement": measurement})
