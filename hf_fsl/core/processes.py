"""Processes that end together: signals are passed on, and nothing outlives what it was started for."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

GRACE = 60.0
"""Seconds that a process has after a signal, for a checkpoint, before it is killed."""
SAME = 2.0
"""Seconds within which a second signal is the first once more: some senders signal a process and its group."""
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

_PARENT = "HF_FSL_PARENT"
_POLL = 0.1
_LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
"""One of these is set by ``accelerate launch`` and by ``torchrun``."""


class Ended(KeyboardInterrupt):
    """A signal ended what was launched, which has said so; ``exit_code`` is 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def supervised(command: Sequence[str], environment: Mapping[str, str] | None = None, grace: float = GRACE) -> int:
    """Runs a command; SIGINT, SIGTERM and SIGHUP are passed on to it, and all it started ends with it.

    It has ``grace`` seconds to end after a signal; after them, or a second signal, it and its children are killed.

    Args:
        environment: instead of this process's.

    Returns:
        The command's exit code; 128 + number where it died of a signal.

    Raises:
        Ended: a signal was passed on to it. Not where it was done all the same.
    """
    received: list[tuple[int, float]] = []
    with signals_to(lambda number, frame: received.append((number, time.monotonic()))):
        # A session of its own: a terminal's Ctrl-C comes from here alone, once.
        process = subprocess.Popen(
            command, env=as_parent(os.environ if environment is None else environment),
            start_new_session=os.name == "posix",
        )  # fmt: skip
        passed_on = False
        while process.poll() is None:
            time.sleep(_POLL)
            if not received:
                continue
            number, since = received[0]
            if not passed_on:
                name = signal.Signals(number).name
                print(
                    f"{name}: a running training saves a checkpoint first (at most {grace:.0f} s; a second signal "
                    "ends it at once).", file=sys.stderr, flush=True,
                )  # fmt: skip
                pass_on(process.pid, number)
                passed_on = True
            elif time.monotonic() - since > grace or received[-1][1] - since > SAME:
                kill_tree(process.pid)
        if received:
            kill_tree(process.pid)  # what it has left behind
            if process.returncode:
                raise Ended(received[0][0])
    return exit_code(process.returncode)


@contextlib.contextmanager
def signals_to(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """What would end this process goes to a handler instead. What is ignored, as under ``nohup``, stays ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)


def pass_on(process: int, number: int) -> None:
    """Sends a signal, if the process is still there."""
    if os.name != "posix":
        if number != signal.SIGINT:  # a console sends Ctrl-C to all of its processes by itself
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGTERM)
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def kill_tree(process: int) -> None:
    """Kills a process that ``supervised`` started, all its descendants, and what is left of its session."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process)
        for member in [root, *root.children(recursive=True)]:  # the root first, so that it starts no others
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process, signal.SIGKILL)


def exit_code(code: int) -> int:
    """The exit code that a shell shows for a process: 128 + number for one that a signal ended."""
    return code if code >= 0 else 128 - code


def as_parent(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is to end with this one, see :func:`end_with_parent`."""
    return {**environment, _PARENT: f"{platform.node()} {os.getpid()}"}


def is_supervised() -> bool:
    """Whether ``hf-fsl`` launched this process, and speaks for it when a signal comes."""
    return _PARENT in os.environ


def end_with_parent(grace: float = GRACE) -> None:
    """Ends this process when its launcher is gone: one that is killed passes no signal on.

    It gets SIGTERM, and is killed with its children ``grace`` seconds later. A script that was started by hand
    outlives its shell as ever.
    """
    import psutil

    node, _, number = os.environ.get(_PARENT, "").rpartition(" ")
    if not number and any(name in os.environ for name in _LAUNCHED):
        node, number = platform.node(), str(os.getppid())
    if not number or node != platform.node():  # by hand, or by mpirun on another machine
        return
    launcher = psutil.Process(int(number)) if psutil.pid_exists(int(number)) else None

    def watch() -> None:
        while launcher is not None and _is_alive(launcher):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        os._exit(exit_code(-signal.SIGTERM))

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def _is_alive(process: Any) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
