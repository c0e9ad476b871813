"""What the adapter search benchmark concludes from its searches: two bars, costs to reach random, the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from adapter_replay import Point, bootstrap, ratio_of_means
from adapter_runs import Row, best_rung

MARGIN = 0.02
"""Share of random search's hypervolume below which a difference counts as none."""

Courses = dict[str, list[list[Point]]]
"""Method -> its course at each search seed; a single point where a method is run for real."""


def against_random(ours: list[Point], random: list[Point]) -> dict[str, Any]:
    """Bar 1."""

    def column(points: list[Point], name: str) -> np.ndarray:
        return np.array([getattr(point, name) for point in points])

    hypervolumes = column(ours, "hypervolume"), column(random, "hypervolume")
    shortfall = bootstrap(lambda a, b: float((a.mean() - b.mean()) / b.mean()), *hypervolumes)
    found: dict[str, Any] = {"hypervolume_relative_to_random": shortfall}
    for name in ("gradient_steps", "token_flops", "search_gradient_steps", "search_token_flops"):
        found[f"times_fewer_{name}"] = bootstrap(ratio_of_means, column(random, name), column(ours, name))
    found["ok"] = bool(
        shortfall["ci95"][0] >= -MARGIN
        and found["times_fewer_gradient_steps"]["ci95"][0] >= 10
        and found["times_fewer_token_flops"]["ci95"][0] >= 5
    )
    return found


def against_uniform(fronts: list[list[Row]], runs: dict[int, list[Row]]) -> dict[str, Any]:
    """Bar 2, by rank of the uniform LoRA: test log-loss of the front's member that is no larger and best on
    validation, minus that of uniform LoRA, bootstrapped over seeds and texts."""
    found = {}
    for rank, rows in runs.items():
        limit = rows[0]["parameters"]
        ours = [_best([row for row in front if row["parameters"] <= limit]) for front in fronts]
        if any(row is None for row in ours):
            found[f"r={rank}"] = {"parameters": limit, "note": "a front has no member of that size", "ok": False}
            continue
        gaps = np.array([row["test_losses"] for row in ours]) - np.array([row["test_losses"] for row in rows])
        rng = np.random.default_rng(0)
        count, texts = gaps.shape
        means = [
            gaps[rng.integers(count, size=count)].mean(0)[rng.integers(texts, size=texts)].mean() for _ in range(2000)
        ]
        low, high = np.percentile(means, [2.5, 97.5])
        found[f"r={rank}"] = {
            "parameters": limit, "our_parameters": [row["parameters"] for row in ours],
            "loss_difference": float(gaps.mean()), "ci95": [float(low), float(high)], "ok": bool(low <= 0),
        }  # fmt: skip
    return found


def summary(courses: Courses, target: float) -> dict[str, Any]:
    """By method: hypervolume in the end, and the cost at which its mean course comes within the margin of a target."""
    found = {}
    for name, each in courses.items():
        length = min(len(course) for course in each)
        means = np.array([[course[i].hypervolume for course in each] for i in range(length)]).mean(1)
        reached = np.flatnonzero(means >= target * (1 - MARGIN))
        row: dict[str, Any] = {"hypervolume": bootstrap(np.mean, [course[-1].hypervolume for course in each])}
        for cost in ("token_flops", "gradient_steps", "search_token_flops", "search_gradient_steps"):
            row[cost] = float(np.mean([getattr(course[-1], cost) for course in each]))
            row[f"{cost}_to_reach_random"] = (
                float(np.mean([getattr(course[reached[0]], cost) for course in each])) if len(reached) else None
            )
        found[name] = row
    return found


def draw(courses: Courses, target: float, path: Path) -> None:
    """Mean hypervolume over token-FLOPs; what is no course is a point with the range over its seeds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, each in courses.items():
        length = min(len(course) for course in each)
        costs = np.array([[point.token_flops for point in course[:length]] for course in each]).mean(0)
        volumes = np.array([[point.hypervolume for point in course[:length]] for course in each])
        if length > 1:
            (line,) = axes.plot(costs, volumes.mean(0), label=name)
            axes.fill_between(costs, *np.percentile(volumes, [2.5, 97.5], axis=0), color=line.get_color(), alpha=0.12)
        else:
            mean = volumes.mean()
            spans = [[mean - volumes.min()], [volumes.max() - mean]]
            axes.errorbar(costs, [mean], yerr=spans, fmt="o", capsize=3, label=name)
    axes.axhline(target, color="grey", linestyle=":", linewidth=1, label="random, whole budget")
    axes.set(xscale="log", xlabel="token-FLOPs, finalists included", ylabel="hypervolume (test log-loss, parameters)")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def _best(rows: list[Row]) -> Row | None:
    return min(rows, key=lambda row: best_rung(row)["validation_loss"], default=None)
