"""Sums of losses against the formulas."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hf_fsl.training.losses import ClassificationLoss


def test_label_smoothing_of_a_multi_label_task_is_that_of_each_answer():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator)
    labels = (torch.rand(5, 3, generator=generator) > 0.5).float()
    weights = torch.tensor([1.0, 2.0, 0.5])
    # The same by cross-entropy between yes and no.
    pairs = torch.stack([torch.zeros_like(logits), logits], -1)
    expected = F.cross_entropy(pairs.reshape(-1, 2), labels.long().reshape(-1), reduction="none", label_smoothing=0.2)
    smoothed = ClassificationLoss(True, weights, 0.2)(logits, labels)
    torch.testing.assert_close(smoothed, (expected.reshape(5, 3) * weights).sum())
    assert smoothed != ClassificationLoss(True, weights)(logits, labels)
