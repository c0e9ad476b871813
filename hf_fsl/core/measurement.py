"""What is measured: a number with its interval, and how much of some texts was read."""

from __future__ import annotations

from dataclasses import dataclass

LOWER_IS_BETTER = ("ece", "loss")


def maximized(metric: str, value: float) -> float:
    """The value of a metric turned so that more is better."""
    return -value if metric in LOWER_IS_BETTER else value


@dataclass(kw_only=True)
class Measurement:
    """A number with what is needed to judge it.

    ``ci95`` is over test examples (bootstrap) for one run, over seeds (Student's t) where ``seeds`` is above one:
    ``over`` says which.
    """

    value: float
    ci95: tuple[float, float] | None = None
    n: int | None = None
    seeds: int | None = None
    over: str | None = None


@dataclass(kw_only=True)
class TruncationRecord:
    """What of some texts lies beyond the tokens that are read of each."""

    limit: int | None
    """Tokens a text may have; None: as many as it has."""
    texts: int
    cut_texts: int
    tokens: int
    """Before anything was cut; ``cut_tokens`` of them were."""
    cut_tokens: int
