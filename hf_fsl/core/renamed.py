"""Names that something had before, where readers take them or errors tell the new one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

RENAMED_ESTIMATORS = {"prior": "anchored"}
"""Few-shot estimators: name until 0.2 -> name now."""


def renamed_arguments(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function say what its arguments are called now: ``old="new"``. It raises TypeError for the old name."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in new_names.keys() & kwargs.keys():
                raise TypeError(f"{function.__qualname__}: {old} is now called {new_names[old]}.")
            return function(*args, **kwargs)

        return call

    return decorate
