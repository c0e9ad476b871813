"""The report's pictures, as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from hf_fsl.hub.cards import METRIC_NAMES
from hf_fsl.search.report.record import SearchReport
from hf_fsl.search.study.trials import minimised

_BLUE, _GREY, _ORANGE = "#1f6fb2", "#b8c2cc", "#d9822b"


def figures(report: SearchReport) -> dict[str, bytes]:
    """File name -> PNG, of what the report holds."""
    found = {"search_front.png": _front(report)}
    if len(report.hypervolume.get("curve", [])) > 1:
        found["search_hypervolume.png"] = _hypervolume(report)
    if report.importances:
        found["search_importances.png"] = _importances(report)
    return found


def _front(report: SearchReport) -> bytes:
    """Left what was tried, on validation; right what was trained again, on test with intervals."""
    figure = _figure(9.5 if report.members else 5.5, 3.8)
    axes = figure.subplots(1, 2 if report.members else 1, squeeze=False)[0]
    name = report.objectives[0]
    shown = [row for row in report.trials if math.isfinite(row.values.get(name, math.nan))]
    for stopped, colour, label in ((True, "white", "stopped early"), (False, _GREY, "tried")):
        rows = [row for row in shown if row.stopped == stopped and not row.on_front]
        _points(axes[0], [(r.parameters, r.values[name]) for r in rows], color=colour, edgecolors=_GREY, label=label)
    front = [(row.parameters, row.values[name]) for row in report.front if name in row.values]
    _points(axes[0], front, color=_BLUE, edgecolors=_BLUE, label="front")
    for tried in report.front:
        if (interval := tried.details.get("interval")) and name in tried.values:
            axes[0].plot([tried.parameters] * 2, interval, color=_BLUE, linewidth=1, alpha=0.5, zorder=1)
    axes[0].plot(*zip(*front, strict=True), color=_BLUE, linewidth=1) if front else None
    finite = sorted(minimised(name, row.values[name]) for row in shown)
    if len(finite) > 8:  # what failed must not flatten the rest
        ends = [finite[0], finite[int(0.95 * (len(finite) - 1))]]
        margin = 0.08 * (ends[1] - ends[0]) or 0.1
        limits = sorted(minimised(name, end) for end in (ends[0] - margin, ends[1] + margin))
        axes[0].set_ylim(*limits)
    axes[0].set_ylabel(f"{METRIC_NAMES.get(name, name)} on validation, 95 % interval")
    axes[0].legend(fontsize=7, frameon=False)
    if report.members:
        metric = "accuracy" if all("accuracy" in row.test for row in report.members) else "loss"
        for row in report.members:
            value = row.test[metric]
            low, high = value.ci95 or (value.value, value.value)
            colour = _ORANGE if row.baseline else _BLUE
            axes[1].plot([row.parameters] * 2, [low, high], color=colour, linewidth=1.5, zorder=1)
            axes[1].scatter(
                [row.parameters], [value.value], s=60 if row.chosen else 30, zorder=2, edgecolors=colour,
                color=colour if row.chosen or row.baseline else "white",
            )  # fmt: skip
            axes[1].annotate(row.name, (row.parameters, value.value), fontsize=7, xytext=(5, 3),
                             textcoords="offset points", parse_math=False)  # fmt: skip
        axes[1].set_ylabel(f"{METRIC_NAMES.get(metric, metric)} on test, 95 % interval")
    for each in axes:
        each.set_xscale("log")
        each.set_xlabel("trained parameters")
        each.grid(color="#e6e6e6", linewidth=0.5)
    return _png(figure)


def _hypervolume(report: SearchReport) -> bytes:
    figure = _figure(5.5, 3.4)
    axes = figure.add_subplot()
    curve = report.hypervolume["curve"]
    axes.step([cost for cost, _ in curve], [value for _, value in curve], where="post", color=_BLUE, label="search")
    for name, value in report.hypervolume.get("baselines", {}).items():
        axes.axhline(value, color=_ORANGE, linewidth=1, linestyle="--")
        axes.annotate(name, (curve[-1][0], value), fontsize=7, ha="right", va="bottom", parse_math=False)
    axes.set_xlabel("token-FLOPs spent, evaluation included")
    axes.set_ylabel("hypervolume")
    axes.grid(color="#e6e6e6", linewidth=0.5)
    return _png(figure)


def _importances(report: SearchReport) -> bytes:
    rows = list(report.importances.items())[:12]
    figure = _figure(5.5, 0.9 + 0.28 * len(rows))
    axes = figure.add_subplot()
    axes.barh(range(len(rows)), [share for _, share in rows], color=_BLUE)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel(f"importance for {METRIC_NAMES.get(report.objectives[0], report.objectives[0])} (PED-ANOVA)")
    return _png(figure)


def _points(axes: Any, points: Sequence[tuple[float, float]], **style: Any) -> None:
    if points:
        axes.scatter([x for x, _ in points], [y for _, y in points], s=18, linewidths=0.8, zorder=2, **style)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
