"""Pictures for the card."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_fsl.core.records import EpisodesRecord, MethodRecord

_WITH_COUNTS = 30
"""Up to so many classes every count that is not zero is written into its cell."""
_PAIRS = 30
_LONGEST_NAME = 28


def confusion_figure(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> bytes:
    """A confusion matrix as PNG: rows true, columns predicted, coloured by share of the row; counts where they fit.

    Args:
        matrix: ``(C, C)`` counts.
        names: the C classes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(names)
    cell = 0.42 if size <= _WITH_COUNTS else 0.2
    side = min(24.0, max(3.0, cell * size))
    figure = Figure(figsize=(side + 3.2, side + 2.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    # A class named $x$ is a name, not mathematics.
    text: dict[str, Any] = {"fontsize": 9 if size <= _WITH_COUNTS else 7.5, "parse_math": False}
    shown = [_short(name) for name in names]
    axes.set_xticks(range(size), shown, rotation=90, **text)
    axes.set_yticks(range(size), shown, **text)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(size - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(size - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="#e6e6e6", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    if size <= _WITH_COUNTS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.68 else "#222222"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, label="share of the true class")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def confused_pairs_figure(pairs: Sequence[tuple[int, int, int]], names: Sequence[str]) -> bytes:
    """The most frequent confusions as PNG, one bar each: for classes so many that a matrix could not be read.

    Args:
        pairs: true class, predicted class, how many examples, without right answers, the most frequent first.
        names: the C classes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = pairs[:_PAIRS]
    figure = Figure(figsize=(8.5, 1.1 + 0.24 * max(len(shown), 4)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.barh(range(len(shown)), [count for _, _, count in shown], color="#1f6fb2", height=0.7)
    labels = [f"{_short(names[true])} → {_short(names[predicted])}" for true, predicted, _ in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    wrong = sum(count for _, _, count in pairs)
    axes.set_xlabel(
        f"test examples, true class → predicted class\n"
        f"({sum(count for _, _, count in shown)} of {wrong} wrong predictions)"
    )
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.5)
    axes.set_axisbelow(True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def methods_figure(methods: Sequence[MethodRecord]) -> bytes:
    """Methods as PNG: one row each, accuracy on test with its 95 % interval, the chosen ones filled."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.9 + 0.32 * len(methods)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, method in enumerate(methods):
        value = method.test.value
        low, high = method.test.ci95 or (value, value)
        axes.plot([low, high], [row, row], color="#9aa7b5", linewidth=1.5, zorder=1)
        colour = "#1f6fb2" if method.chosen else "white"
        axes.scatter([value], [row], s=36, color=colour, edgecolors="#1f6fb2", zorder=2)
    axes.set_yticks(range(len(methods)), [method.label for method in methods], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on test, 95 % interval; filled: chosen on validation")
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def episodes_figure(drawn: EpisodesRecord) -> bytes:
    """Accuracy over the number of examples as PNG: one line a method, with 95 % intervals over episodes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines: dict[str, list[Any]] = {}
    for result in drawn.results:
        name = f"{result.method}{', meta-trained' if result.meta_trained else ''}"
        lines.setdefault(f"{name} (sees all queries)" if result.transductive else name, []).append(result)
    shots = sorted({result.k_shot for result in drawn.results})
    for number, (name, results) in enumerate(lines.items()):
        # Side by side: intervals at one k must not hide each other.
        places = [shots.index(result.k_shot) + 0.6 * ((number + 0.5) / len(lines) - 0.5) for result in results]
        values = [result.accuracy.value for result in results]
        ends = [result.accuracy.ci95 or (result.accuracy.value,) * 2 for result in results]
        reach = [[value - low for value, (low, _) in zip(values, ends, strict=True)],
                 [high - value for value, (_, high) in zip(values, ends, strict=True)]]  # fmt: skip
        style = "--" if results[0].transductive else "-"
        axes.errorbar(places, values, reach, label=name, fmt=f"o{style}", markersize=4, linewidth=1, capsize=2)
    axes.axhline(1 / drawn.n_way, color="#9aa7b5", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(shots)), [str(k) for k in shots])
    axes.set_xlabel(f"examples a class (k); dotted: guessing among {drawn.n_way}")
    axes.set_ylabel(f"accuracy, mean of {drawn.episodes} episodes")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
