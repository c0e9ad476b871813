"""Which workers of a study are alive: each holds a lock in the study's folder, which the system frees if it dies."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

FOLDER = "workers"


class Liveness:
    """This worker's lock, and what those of the others say.

    A heartbeat takes minutes to tell that a worker is dead; meanwhile the next worker would try other architectures,
    by other results, than it would have done had nobody died.

    Args:
        folder: of the study.
        whole: whether all its workers share this folder, as those of an SQLite file in it do.
    """

    def __init__(self, folder: Path, whole: bool) -> None:
        self.folder, self.whole, self.name = folder / FOLDER, whole, uuid.uuid4().hex
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._path(self.name))
        with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks: nothing is known then
            self._lock.acquire(timeout=0)

    def is_dead(self, worker: str | None) -> bool:
        """Whether a worker is known to be dead.

        Args:
            worker: its ``name``; None: of a trial that nobody said to be its own, as who died before it could.
        """
        if worker is None:
            return self.whole and self._lock.is_locked and all(map(self._is_free, self._others()))
        path = self._path(worker)
        return worker != self.name and path.is_file() and self._is_free(path)

    def release(self) -> None:
        """At this worker's end. The file stays: a trial that it could not end has its name."""
        self._lock.release()

    def clean(self) -> None:
        """Removes the files of this worker and of dead ones, once none of their trials is running."""
        for path in [self._path(self.name), *filter(self._is_free, self._others())]:
            path.unlink(missing_ok=True)

    def _others(self) -> list[Path]:
        return [path for path in self.folder.glob("*.lock") if path != self._path(self.name)]

    def _path(self, worker: str) -> Path:
        return self.folder / f"{worker}.lock"

    @staticmethod
    def _is_free(path: Path) -> bool:
        try:
            with FileLock(path, timeout=0):
                return True
        except (Timeout, OSError, NotImplementedError):
            return False
