"""Heads computed term by term from their formulas."""

from __future__ import annotations

import numpy as np

FORMULAS = ("nearest_mean", "cosine", "cl2n", "lda", "ridge", "anchored", "named_lda", "cache")
"""Estimators that are computed here once more."""


def named_reference(support: np.ndarray, means: np.ndarray, targets: np.ndarray, anchor: np.ndarray, queries):
    """LDA, its metric such that the spread within the classes stays as large, and the names in the plain metric."""
    middle, (count, dimension) = means.mean(0), support.shape
    unit = ((support - middle) ** 2).sum(-1).mean()
    scatter = (support - targets @ means).T @ (support - targets @ means) / count
    spread = np.trace(scatter) / dimension
    inverse = np.linalg.inv(0.4 * scatter / spread + 0.6 * np.eye(dimension))
    inverse *= np.trace(scatter) / np.trace(inverse @ scatter)
    noise = np.trace(scatter) * count / (count - len(means))
    logits = np.empty((len(queries), len(means)))
    for c, number in enumerate(targets.sum(0)):
        d, e, z = means[c] - middle, anchor[c] / np.linalg.norm(anchor[c]) * np.sqrt(unit), queries - middle
        w, r = number / (number + 4), 0.5 / (number + 4)
        logits[:, c] = (
            w * (z @ inverse @ d - 0.5 * (d @ inverse @ d - noise / number)) + r * z @ e - 0.5 * r**2 * e @ e
        )
    return logits / unit


def reference(
    name: str, support: np.ndarray, labels: np.ndarray, names: np.ndarray, queries: np.ndarray
) -> np.ndarray:
    """The estimators' formulas, term by term, in NumPy."""
    classes, (count, dimension) = labels.max() + 1, support.shape

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    if name == "cl2n":
        support, queries = unit(support - support.mean(0)), unit(queries - support.mean(0))
    if name in ("cosine", "anchored", "named_lda", "cache"):
        support, queries = unit(support), unit(queries)
    means = np.stack([support[labels == c].mean(0) for c in range(classes)])
    targets = np.eye(classes)[labels]
    anchor = unit(names) - unit(names).mean(0)
    if name in ("nearest_mean", "cl2n"):
        return -((queries[:, None] - means) ** 2).sum(-1) + (queries**2).sum(-1, keepdims=True)
    if name == "cosine":
        return 10 * queries @ unit(means).T
    if name == "lda":
        scatter = sum(np.outer(row - means[c], row - means[c]) for row, c in zip(support, labels, strict=True)) / count
        inverse = np.linalg.inv(0.5 * scatter + 0.5 * np.trace(scatter) / dimension * np.eye(dimension))
        return queries @ inverse @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, inverse, means)
    if name == "ridge":
        rows, level = support - support.mean(0), targets.mean(0)
        penalty = (rows**2).sum(-1).mean()
        weight = np.linalg.inv(rows.T @ rows + penalty * np.eye(dimension)) @ rows.T @ (targets - level)
        return level + (queries - support.mean(0)) @ weight
    if name == "anchored":
        start = 0.5 * anchor
        gram = support @ support.T + np.eye(count)
        residual = targets - 1 / classes - support @ start.T
        return queries @ start.T + queries @ support.T @ np.linalg.inv(gram) @ residual
    if name == "named_lda":
        return named_reference(support, means, targets, anchor, queries)
    if name == "cache":
        return 2.0 * np.exp(-5.5 * (1 - queries @ support.T)) @ targets + 5.0 * queries @ anchor.T
    raise AssertionError(name)
