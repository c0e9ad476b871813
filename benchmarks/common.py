"""What the benchmarks share: interleaved rounds, median ratios with intervals, one JSON each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_fsl.core.environment import hardware, versions
from hf_fsl.core.files import write_text

RESULTS = Path(__file__).parent / "results"


def interleave(contestants: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; every round runs all of them, in turning order."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(-warm_up, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            started = time.perf_counter()
            contestants[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
        print(f"round {number + 1}/{rounds}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items() if s))
    return seconds


def ratio(numerator: list[float], denominator: list[float], resamples: int = 5000) -> dict[str, Any]:
    """Median over rounds of the ratio within a round, with its bootstrap 95 % interval."""
    ratios = np.asarray(numerator) / np.asarray(denominator)
    generator = np.random.default_rng(0)
    medians = np.median(generator.choice(ratios, (resamples, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return {"median": float(np.median(ratios)), "ci95": [float(low), float(high)], "rounds": len(ratios)}


def write_result(name: str, values: dict[str, Any], peers: Sequence[str] = ()) -> None:
    """Writes ``results/<name>.json`` with versions and hardware, and prints it.

    Args:
        peers: packages measured beside hf_fsl which it does not itself stand on; their versions are written too.
    """
    installed = versions() | {peer: metadata.version(peer) for peer in peers}
    about = {"threads": torch.get_num_threads(), "versions": installed, "hardware": hardware()}
    text = json.dumps({"benchmark": name, **values, **about}, indent=2)
    write_text(RESULTS / f"{name}.json", text + "\n")
    print(text)
