"""What the builders of the bundled data sets share: parquet files written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import datasets


def write_parquet(data: datasets.Dataset, path: Path) -> None:
    """Writes a data set with its typed features, to a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    data.to_parquet(temporary)
    os.replace(temporary, path)
