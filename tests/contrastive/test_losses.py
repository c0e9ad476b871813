"""The losses against float64 NumPy, written out pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_fsl.contrastive.losses import ContrastiveLoss, true_pairs


def batch(count=7, size=5, seed=0):
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(2, count, size))
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def log_softmax(row):
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def clip_reference(images, texts, scale, positives):
    logits, total = scale * images @ texts.T, 0.0
    for matrix, true in ((logits, positives), (logits.T, positives.T)):
        for row, own in zip(matrix, true, strict=True):
            total -= log_softmax(row)[own].mean()
    return total / (2 * len(images))


def siglip_reference(images, texts, scale, bias, positives):
    total = 0.0
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            sign = 1.0 if positives[i, j] else -1.0
            total += np.log1p(np.exp(-sign * (scale * image @ text + bias)))
    return total / len(images)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_losses_equal_a_float64_reference(scale, shared):
    images, texts = batch()
    positives = np.eye(7, dtype=bool)
    if shared:
        positives[1, 4] = positives[4, 1] = positives[2, 5] = True
    tensors = [torch.tensor(value, dtype=torch.float32) for value in (images, texts, scale)]
    true = torch.tensor(positives)
    clip = ContrastiveLoss("clip")(*tensors, None, true).item()
    assert clip == pytest.approx(clip_reference(images, texts, scale, positives), rel=1e-5)
    siglip = ContrastiveLoss("siglip")(*tensors, torch.tensor(-4.0), true).item()
    assert siglip == pytest.approx(siglip_reference(images, texts, scale, -4.0, positives), rel=1e-5)


def test_clip_equals_the_loss_of_transformers():
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    images, texts = (torch.tensor(rows, dtype=torch.float32) for rows in batch(seed=3))
    stock = image_text_contrastive_loss(20 * texts @ images.T)
    ours = ContrastiveLoss("clip")(images, texts, torch.tensor(20.0), None, torch.eye(7, dtype=torch.bool))
    torch.testing.assert_close(ours, stock)


def test_a_text_is_true_of_every_picture_that_has_it_among_its_captions():
    # picture 0 was given its own name (0), but the class's text (9) is true of it too
    captions = torch.tensor([[0, 9], [1, 9], [2, -1]])
    assert true_pairs(captions, torch.tensor([0, 9, 2])).tolist() == [
        [True, True, False],
        [False, True, False],
        [False, False, True],
    ]


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_equal_texts_are_pulled_to_both_pictures_and_pushed_from_neither(name):
    """Two pictures with one text, both embedded on it: the loss must not push either away."""
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    texts = images.detach().clone()
    positives = true_pairs(torch.tensor([[0], [0], [1]]), torch.tensor([0, 0, 1]))
    scale, bias = torch.tensor(30.0), torch.tensor(-10.0)
    ContrastiveLoss(name)(images, texts, scale, bias, positives).backward()
    assert images.grad[:, 0][:2].abs().max() < 1e-5
    images.grad = None
    ContrastiveLoss(name)(images, texts, scale, bias, torch.eye(3, dtype=torch.bool)).backward()
    assert images.grad.abs().max() > (1.0 if name == "siglip" else -1.0)


def test_no_overflow_at_large_logits_and_half_precision():
    images, texts = (torch.tensor(rows, dtype=torch.float16) for rows in batch(seed=1))
    for name in ("clip", "siglip"):
        value = ContrastiveLoss(name)(images, texts, torch.tensor(1e4), torch.tensor(-10.0), torch.eye(7) > 0)
        assert torch.isfinite(value)
