"""Signals that end a process, during a training: noted, and obeyed between two optimiser steps, once all is saved."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator

from hf_fsl.core.processes import SAME, signals_to


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended training after a checkpoint was saved. Says on the main process how to go on.

    Attributes:
        exit_code: what a process that was ended by this signal exits with.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Signals:
    """The signals that would have ended this process. A later Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.received = 0
        """Number of the first; 0: none."""
        self._since = 0.0
        self._process = os.getpid()

    def agreed(self, accelerator: Accelerator, due: bool) -> tuple[int, bool]:
        """The signal that any process has received, and whether any finds a checkpoint due; the same on all."""
        if accelerator.num_processes == 1:
            return self.received, due
        mine = torch.tensor([[self.received, int(due)]], device=accelerator.device)
        received, anywhere = accelerator.gather(mine).amax(0).tolist()
        return received, bool(anywhere)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Takes the place of a signal's handler."""
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


@contextmanager
def noted_signals() -> Iterator[Signals]:
    """Within the block signals that end a process are noted instead."""
    signals = Signals()
    with signals_to(signals.note):
        yield signals
