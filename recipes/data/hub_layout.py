"""What the builders of the bundled data sets share: their command line, and parquet files written whole."""

from __future__ import annotations

import argparse
from pathlib import Path

import datasets

from hf_fsl.core.files import atomic_write


def write_parquet(data: datasets.Dataset, path: Path) -> None:
    """Writes a data set with its typed features, to a temporary name first."""
    with atomic_write(path) as temporary:
        data.to_parquet(temporary)


def parse_arguments(description: str | None, output: Path, source: Path | None = None) -> argparse.Namespace:
    """``--output``, and ``--source`` where there is a default for it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=output)
    if source is not None:
        parser.add_argument("--source", type=Path, default=source)
    return parser.parse_args()
