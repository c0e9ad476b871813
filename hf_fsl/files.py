"""Files written so that a reader sees the old content or the new, never a part, even after a power cut."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path``, which becomes ``path`` when the block ends well and is removed when not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk.

    Without it the new name can get there before what it stands for.
    """
    if path.is_file():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        return
    with contextlib.suppress(OSError):  # not every system lets a folder be opened, or flushed
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file whole or not at all. Returns its path."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
