"""The tracker that is always on: one JSON object a line in ``metrics.jsonl``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, TextIO

from accelerate import PartialState
from accelerate.tracking import GeneralTracker


class JSONLTracker(GeneralTracker):
    """Accelerate tracker appending ``{"step": …, "time": …, **values}`` lines, each flushed as it is written."""

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
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._write({"config": values})

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self._write({"step": step, **values})

    def finish(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, row: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"time": round(time.time(), 3), **row}) + "\n")
            self._file.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
