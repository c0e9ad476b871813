"""A report as lines of text, for ``hf-fsl search show``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from hf_fsl.core.measurement import Measurement
from hf_fsl.search.report.record import SearchReport


def lines(report: SearchReport) -> Iterator[str]:
    """What a search found, from its verdict to its choice."""
    stopped = sum(row.stopped for row in report.trials)
    yield (
        f"{report.name}: {len(report.trials)} of {report.space_size:,} architectures tried ({stopped} stopped early), "
        f"{report.strategy} path, {report.sampler}, {report.seconds:.0f} s, {report.token_flops:.3g} token-FLOPs"
    )
    if report.verdict:
        yield ""
        yield report.verdict
    yield ""
    yield f"Front on validation ({', '.join(report.objectives)}):"
    yield from table(
        ["trial", *report.objectives, "95 % interval", "architecture"],
        [
            [str(row.number), *(value(row.values.get(name)) for name in report.objectives),
             interval(row.details.get("interval")), row.description]
            for row in report.front
        ],
    )  # fmt: skip
    if report.members:
        yield ""
        yield f"Trained again over seeds {report.members[0].seeds} (test, read once):"
        yield from table(
            ["", "name", "parameters", report.objectives[0], "test loss", "test accuracy", "architecture"],
            [
                ["*" if row.chosen else "", row.name, f"{row.parameters:,}", value(row.validation.value),
                 measured(row.test["loss"]), measured(row.test["accuracy"]), row.description]
                for row in report.members
            ],
        )  # fmt: skip
        yield f"* chosen: {report.chosen_because}"
        significant = [row for row in report.comparisons if row.measurable]
        yield ""
        yield f"{len(significant)} of {len(report.comparisons)} pairs differ measurably (p < 0.05 after Holm):"
        for pair in significant:
            figures = f"{pair.difference:+.4f} [{pair.ci95[0]:+.4f}, {pair.ci95[1]:+.4f}], p = {pair.p_holm:.2g}"
            yield f"  {pair.first} - {pair.second}: {pair.metric} {figures}"
    for name, why in report.diverged.items():
        yield f"{name} was left out, it cannot be trained at any learning rate tried: {why}"
    if report.hypervolume.get("curve"):
        yield ""
        yield _hypervolume(report.hypervolume)
    if report.importances:
        yield ""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in list(report.importances.items())[:5])
        yield f"What moved {report.objectives[0]} most: {shares}"
    if report.peft_config:
        yield ""
        yield "Chosen PEFT config:"
        for line in yaml.safe_dump(report.peft_config, sort_keys=True).splitlines():
            yield f"  {line}"


def _hypervolume(found: dict[str, Any]) -> str:
    cost, volume = found["curve"][-1]
    reference = ", ".join(
        f"{name} {value(number)}" for name, number in zip(found["axes"], found["reference"], strict=True)
    )
    others = "".join(f"; {name} alone {value(number)}" for name, number in found.get("baselines", {}).items())
    return f"Hypervolume {value(volume)} after {cost:.3g} token-FLOPs (reference: {reference}){others}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest cell."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def value(number: float | None) -> str:
    if number is None or math.isnan(number):
        return "unknown"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def interval(ends: Sequence[float] | None) -> str:
    return f"[{value(ends[0])}, {value(ends[1])}]" if ends else ""


def measured(measurement: Measurement) -> str:
    low, high = measurement.ci95 or (math.nan, math.nan)
    return f"{measurement.value:.4f} [{low:.4f}, {high:.4f}]"
