"""The tracker that is always on: one JSON object a line in ``metrics.jsonl``."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from accelerate import Accelerator, PartialState
from accelerate.tracking import GeneralTracker

from hf_fsl.core.files import write_text


class JSONLTracker(GeneralTracker):
    """Accelerate tracker appending ``{"step": …, "time": …, **values}`` lines, each flushed as it is written.

    A run that goes on from a checkpoint goes on in the same file, see :class:`RunLog`.
    """

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._file: TextIO | None = None

    @property
    def tracker(self) -> TextIO | None:
        return self._file

    def start(self) -> None:
        # Accelerate starts trackers on every process; without a file all else here does nothing.
        if self._file is None and PartialState().is_main_process:
            self._open(lambda row: True)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        known = [row["config"] for row in read_log(self.path) if "config" in row] if self._file is not None else []
        if known[-1:] != [values]:
            self._write({"config": values})

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self._write({"step": step, **values})

    def rewind(self, step: int, prefix: str = "") -> None:
        """Drops the rows of values of this prefix that are of later steps."""

        def kept(row: dict[str, Any]) -> bool:
            later = row.get("step") is not None and row["step"] > step
            return not later or not any(name.startswith(prefix) for name in row.keys() - {"step", "time"})

        if self._file is not None:
            self._open(kept)

    def finish(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, kept: Callable[[dict[str, Any]], bool]) -> None:
        """Opens the file behind those of its rows that stay."""
        self.finish()
        rows = [row for row in read_log(self.path) if kept(row)] if self.path.is_file() else []
        # Of configurations with nothing in between, the last is that of what follows.
        rows = [row for row, after in zip(rows, [*rows[1:], {}], strict=False) if "config" not in row.keys() & after]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = self.path.open("a", encoding="utf-8")

    def _write(self, row: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"time": round(time.time(), 3), **row}) + "\n")
            self._file.flush()


@dataclass(frozen=True)
class RunLog:
    """The scalars of one training, for the trackers of its run.

    Args:
        prefix: before their names, where a run has several trainings.
    """

    accelerator: Accelerator
    prefix: str = ""

    def __call__(self, values: dict[str, float], step: int) -> None:
        self.accelerator.log({self.prefix + name: value for name, value in values.items()}, step=step)

    def rewind(self, step: int) -> None:
        """Drops from ``metrics.jsonl`` what was logged of later steps, by an attempt that is taken up or replaced."""
        for tracker in self.accelerator.trackers:
            if isinstance(tracker, JSONLTracker):
                tracker.rewind(step, self.prefix)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``, without what was cut short by the end of its process."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        with contextlib.suppress(ValueError):
            if line.endswith("\n"):
                rows.append(json.loads(line))
    return rows
