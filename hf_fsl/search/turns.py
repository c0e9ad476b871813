"""What launches that share a folder do one after the other: finish the search."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from accelerate import Accelerator

from hf_fsl.search.study.group import Group

Say = Callable[[str], None]

POLL = 2.0
"""Seconds between two looks at a lock that another launch holds."""
_DONE = "done\n"


@contextlib.contextmanager
def in_turn(path: Path, accelerator: Accelerator, say: Say, waiting: str) -> Iterator[bool]:
    """Holds a lock file, which the kernel frees if this launch dies. All its processes enter together.

    The others of a launch look along with the main process: in one collective they would run into its time limit.

    Args:
        waiting: said once where another launch holds it.

    Yields:
        Whether another launch held it.
    """
    group = Group(accelerator)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        # Not "w": what the holder wrote is for those who wait.
        file = stack.enter_context(path.open("a")) if group.is_main else None
        waited = False
        while not group.share(file is not None and _taken(file)):
            if not waited:
                say(waiting)
            waited = True
            time.sleep(POLL)
        yield waited


@contextlib.contextmanager
def only_worker(folder: Path, accelerator: Accelerator, say: Say) -> Iterator[bool]:
    """Whether this launch is the one that finishes the search in a folder that workers share.

    Another that finishes it is waited for, so that somebody takes over where it dies.
    """
    path, group = folder / "finish.lock", Group(accelerator)
    waiting = "The study is done, and another worker trains the best of it again; waiting for it to finish."
    with in_turn(path, accelerator, say, waiting) as waited:
        if waited and group.share(group.is_main and path.read_text() == _DONE):
            yield False
            return
        if group.is_main:
            path.write_text("")
        yield True
        if group.is_main:
            path.write_text(_DONE)


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
