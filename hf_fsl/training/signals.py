"""Signals that end a process, during a training: noted, and obeyed between two optimiser steps, once all is saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, a launcher or scheduler, and a terminal that is gone, which Windows does not have."""
SAME = 2.0
"""Seconds within which a second signal is the first once more: a terminal and a launcher both pass Ctrl-C on."""


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended training after a checkpoint was saved. Says on the main process how to go on.

    Attributes:
        exit_code: what a process that was ended by this signal exits with.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Signals:
    """Notes the signals that would end this process meanwhile. A later Ctrl-C ends it at once.

    What ignores a signal already (``nohup``) goes on doing so; outside the main thread nothing is changed.
    """

    def __init__(self) -> None:
        self.received = 0
        """Number of the first signal; 0: none."""
        self._since = 0.0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, accelerator: Accelerator, due: bool) -> tuple[int, bool]:
        """The signal that any process has received, and whether any finds a checkpoint due; the same on all."""
        if accelerator.num_processes == 1:
            return self.received, due
        mine = torch.tensor([[self.received, int(due)]], device=accelerator.device)
        received, anywhere = accelerator.gather(mine).amax(0).tolist()
        return received, bool(anywhere)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker that loads data has inherited this; its parent ends it
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        if self.received and number == signal.SIGINT and now - self._since > SAME:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._since = number, now
