"""Metric losses against loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_fsl.training.losses import MetricLoss, MetricLossError

LABELS = [4, 4, 7, 7, 7, 9, 2, 2]  # 9 is alone


def embeddings(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(LABELS), 5))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def supcon(z: np.ndarray, y: list[int], temperature: float) -> float:
    values = []
    for i in range(len(y)):
        positives = [j for j in range(len(y)) if j != i and y[j] == y[i]]
        if positives:
            total = sum(math.exp(z[i] @ z[a] / temperature) for a in range(len(y)) if a != i)
            values.append(-np.mean([math.log(math.exp(z[i] @ z[p] / temperature) / total) for p in positives]))
    return float(np.mean(values))


def prototypical(z: np.ndarray, y: list[int], temperature: float) -> float:
    values = []
    for i in range(len(y)):
        if y.count(y[i]) == 1:
            continue
        means = {c: np.mean([z[j] for j in range(len(y)) if y[j] == c and j != i], axis=0) for c in set(y)}
        logits = {c: -np.sum((z[i] - mean) ** 2) / (2 * temperature) for c, mean in means.items()}
        values.append(math.log(sum(math.exp(v) for v in logits.values())) - logits[y[i]])
    return float(np.mean(values))


def triplet(z: np.ndarray, y: list[int], margin: float | None) -> float:
    values = []
    for i in range(len(y)):
        positives = [np.linalg.norm(z[i] - z[j]) for j in range(len(y)) if j != i and y[j] == y[i]]
        negatives = [np.linalg.norm(z[i] - z[j]) for j in range(len(y)) if y[j] != y[i]]
        if positives:
            gap = max(positives) - min(negatives)
            values.append(math.log(1 + math.exp(gap)) if margin is None else max(0.0, gap + margin))
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        (MetricLoss("supervised_contrastive", 0.1), lambda z, y: supcon(z, y, 0.1)),
        (MetricLoss("supervised_contrastive", 0.7), lambda z, y: supcon(z, y, 0.7)),
        (MetricLoss("prototypical", 0.3), lambda z, y: prototypical(z, y, 0.3)),
        (MetricLoss("triplet"), lambda z, y: triplet(z, y, None)),
        (MetricLoss("triplet", margin=0.4), lambda z, y: triplet(z, y, 0.4)),
    ],
)
def test_the_value_is_that_of_the_papers_formula(loss, reference):
    for seed in range(3):
        rows = embeddings(seed)
        value = loss(torch.tensor(rows, dtype=torch.float32), torch.tensor(LABELS))
        assert float(value) == pytest.approx(reference(unit(rows), LABELS), rel=1e-4)


@pytest.mark.parametrize("name", ["supervised_contrastive", "prototypical", "triplet"])
def test_order_of_the_batch_and_names_of_the_classes_do_not_matter(name):
    rows, labels = torch.tensor(embeddings(), dtype=torch.float32), torch.tensor(LABELS)
    order = torch.tensor([3, 0, 7, 5, 1, 2, 6, 4])
    loss = MetricLoss(name)
    assert float(loss(rows[order], 100 - 3 * labels[order])) == pytest.approx(float(loss(rows, labels)), rel=1e-5)


@pytest.mark.parametrize("name", ["supervised_contrastive", "prototypical", "triplet"])
def test_equal_embeddings_have_finite_gradients(name):
    rows = torch.ones(4, 3, requires_grad=True)
    MetricLoss(name)(rows, torch.tensor([0, 0, 1, 1])).backward()
    assert torch.isfinite(rows.grad).all()


@pytest.mark.parametrize("name", ["supervised_contrastive", "prototypical", "triplet"])
def test_a_gradient_step_brings_classes_together(name):
    rows = torch.tensor(embeddings(), dtype=torch.float32, requires_grad=True)
    labels, loss = torch.tensor(LABELS), MetricLoss(name)
    value = loss(rows, labels)
    (gradient,) = torch.autograd.grad(value, rows)
    assert loss(rows - 0.05 * gradient, labels).item() < value.item()


@pytest.mark.parametrize("labels", [[1, 1, 1], [1, 2, 3]])
def test_a_batch_without_a_pair_or_without_another_class_is_refused(labels):
    with pytest.raises(MetricLossError, match="two examples of one class and one of another"):
        MetricLoss()(torch.randn(3, 4), torch.tensor(labels))
