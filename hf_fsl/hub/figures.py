"""Pictures for the card."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np


def confusion_figure(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> bytes:
    """A confusion matrix as PNG: rows true, columns predicted, coloured by share of the row; counts where they fit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(names)
    side = min(22.0, max(4.5, 0.42 * size + 2.0))
    figure = Figure(figsize=(side, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    font = 9 if size <= 30 else 6
    axes.set_xticks(range(size), names, rotation=90, fontsize=font)
    axes.set_yticks(range(size), names, fontsize=font)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    if size <= 30:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.55 else "#333333"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the true class")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
