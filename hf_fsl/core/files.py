"""Files and folders written so that a reader sees the old content or the new, never a part, even after a power cut."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from hf_fsl.core.errors import UserError

_MARK = "hf_fsl"
_DEAD_AFTER = 24 * 3600.0
"""Seconds after its last change that a leftover is taken for a dead writer's, where nothing can be locked."""
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary file beside ``path``, which becomes ``path`` when the block ends well and is removed when not."""
    path = Path(path)
    with temporary_beside(path) as temporary:
        yield temporary
        sync_to_disk(temporary)
        os.replace(temporary, path)


@contextlib.contextmanager
def temporary_beside(path: Path, *, folder: bool = False, inside: bool = False) -> Iterator[Path]:
    """An empty file, or folder, beside ``path`` or inside it, that no other writer has; gone when the block ends.

    It stays locked as long as its writer lives: what dead writers left behind is removed by the next one there.
    """
    parent, name = (path, _MARK) if inside else (path.parent, path.name)
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
    while True:
        temporary = parent / f".{name}.{_MARK}-{uuid.uuid4().hex}.tmp"
        if folder:
            temporary.mkdir()
        else:
            temporary.open("xb").close()
        lock = _lock(temporary)
        if temporary.exists():  # else another writer took it for a leftover before it was locked
            break
        _unlock(lock)
    try:
        yield temporary
    finally:
        remove(temporary)
        _unlock(lock)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files and folders in ``folder`` whose writers are dead."""
    for leftover in folder.glob(f".*.{_MARK}-{'[0-9a-f]' * 32}.tmp"):
        with contextlib.suppress(OSError):
            lock = _lock(leftover, wait=False)
            if lock is not None or time.time() - leftover.stat().st_mtime > _DEAD_AFTER:
                remove(leftover)
            _unlock(lock)
    for old in folder.glob(f".*.{_MARK}-{'[0-9a-f]' * 32}.tmp.old"):  # of put_in_place, between its two renames
        whole = folder / old.name[1:].split(f".{_MARK}-")[0]
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_ctime > _DEAD_AFTER:
                remove(old)
            elif not whole.exists() and not old.with_suffix("").exists():
                os.replace(old, whole)


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it, as far as the system lets it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def put_in_place(new: Path, folder: Path) -> None:
    """A whole new folder takes the place of ``folder``, which is there at every moment where the system can do that.

    ``new`` is then the name of the old one, or of nothing.
    """
    if not folder.exists():
        os.replace(new, folder)
        return
    if _exchange(new, folder):
        return
    old = new.with_name(f"{new.name}.old")
    os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        os.replace(old, folder)
        raise
    os.replace(old, new)


def require_writable(name: str, folder: str | Path) -> None:
    """Makes a folder that is to be written to, if it is not there. Says so before there is anything to write.

    Args:
        name: of the option that names the folder.

    Raises:
        UserError: files cannot be made in it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{name}: nothing can be written to {folder} ({error.strerror}). Choose another.") from error


def sync_to_disk(path: Path) -> None:
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
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def _exchange(one: Path, other: Path) -> bool:
    """Two names for each other's content in one step; False where the system has no such step."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # no glibc
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def _lock(path: Path, *, wait: bool = True) -> int | None:
    """An open file that holds the lock on ``path``; None where there is none to be had.

    The system lets go of it when its process dies, in whatever way; threads and containers exclude each other, too.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(file)
        return None
    return file


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
