"""What launches that share a folder do one after the other: finish the search."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from accelerate import Accelerator
from filelock import FileLock, Timeout

from hf_fsl.search.study.group import Group

Say = Callable[[str], None]

POLL = 2.0
"""Seconds between two looks at a lock that another launch holds."""


@contextlib.contextmanager
def in_turn(path: Path, accelerator: Accelerator, say: Say, waiting: str) -> Iterator[bool]:
    """Holds a lock file, which the system frees if this launch dies. All its processes enter together.

    The others of a launch look along with the main process: in one collective they would run into its time limit.

    Args:
        waiting: said once where another launch holds it.

    Yields:
        Whether another launch held it.
    """
    group = Group(accelerator)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, waited = FileLock(path), False
    try:
        while not group.share(group.is_main and _taken(lock)):
            if not waited:
                say(waiting)
            waited = True
            time.sleep(POLL)
        yield waited
    finally:
        lock.release()


@contextlib.contextmanager
def only_worker(folder: Path, accelerator: Accelerator, say: Say) -> Iterator[bool]:
    """Whether this launch is the one that finishes the search in a folder that workers share.

    Another that finishes it is waited for, so that somebody takes over where it dies.
    """
    done, group = folder / "finish.done", Group(accelerator)
    waiting = "The study is done, and another worker trains the best of it again; waiting for it to finish."
    with in_turn(folder / "finish.lock", accelerator, say, waiting) as waited:
        if waited and group.share(group.is_main and done.exists()):
            yield False
            return
        if group.is_main:
            done.unlink(missing_ok=True)
        yield True
        if group.is_main:
            done.touch()


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
