"""What was chosen can grow, and what cannot be grown by is told; test_estimators.py has each estimator grow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_fsl.few_shot.heads import GrowingHead, HeadError, choose_head, fit_head

QUERIES = torch.randn(20, 12, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def data(counts: list[int], dimension: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(len(counts), dimension, generator=rng, dtype=torch.float64) + 1
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.randn(len(labels), dimension, generator=rng, dtype=torch.float64)
    return means[labels] + noise, labels, means + torch.randn(means.shape, generator=rng, dtype=torch.float64)


def centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)


def start(name: str, support: Tensor, labels: Tensor, names: Tensor | None) -> GrowingHead:
    transform = fit_head(name, support, labels, label_embeddings=names).transform
    return GrowingHead.of(name, support, labels, transform=transform, label_embeddings=names)


@pytest.mark.parametrize("counts", [[1, 1, 1], [4, 4, 4], [1, 3, 5]])
@pytest.mark.parametrize("named", [True, False])
def test_what_choose_head_gives_can_grow(counts, named):
    support, labels, names = (one.float() if one.is_floating_point() else one for one in data(counts))
    names = names if named else None
    choice = choose_head(support, labels, label_embeddings=names)
    growing = GrowingHead.of_choice(choice, support, labels, label_embeddings=names)
    queries = QUERIES.float()
    assert torch.allclose(centred(growing.head()(queries)), centred(choice.head(queries)), atol=1e-4)
    more, more_labels, _ = (one.float() if one.is_floating_point() else one for one in data([2, 2, 2], seed=1))
    wanted = fit_head(
        choice.estimator,
        torch.cat([support, more]),
        torch.cat([labels, more_labels]),
        label_embeddings=names,
        **choice.hyperparameters,
    ).scaled(1 / choice.temperature)
    grown = growing.add_examples(more, more_labels).head()
    assert grown.weight.dtype == torch.float32
    assert torch.allclose(centred(grown(queries)), centred(wanted(queries)), atol=1e-4)


def test_names_alone_can_grow():
    support, labels, names = data([2, 2, 2])
    choice = choose_head(support[:0], labels[:0], label_embeddings=names)
    growing = GrowingHead.of_choice(choice, support[:0], labels[:0], label_embeddings=names)
    assert torch.allclose(growing.head()(QUERIES), choice.head(QUERIES), atol=1e-9)
    wanted = fit_head("anchored", support, labels, label_embeddings=names, strength=1.0).scaled(1 / choice.temperature)
    assert torch.allclose(growing.add_examples(support, labels).head()(QUERIES), wanted(QUERIES), atol=1e-6)


def test_embeddings_are_not_kept_unasked():
    support, labels, _ = data([2, 2, 2])
    head = fit_head("logistic", support, labels)
    with pytest.raises(HeadError, match="keep_embeddings=True"):
        GrowingHead.of("logistic", support, labels, transform=head.transform)
    assert start("lda", support, labels, None).embeddings is None


def test_bad_growth():
    support, labels, names = data([2, 2, 2])
    growing, named = start("lda", support, labels, None), start("named_lda", support, labels, names)
    with pytest.raises(HeadError, match="run from 0 to 2"):
        growing.add_examples(support, labels + 1)
    with pytest.raises(HeadError, match="must be finite"):
        growing.add_examples(support * torch.nan, labels)
    with pytest.raises(HeadError, match="counted from 3, got label 2"):
        growing.add_classes(support, labels + 2)
    with pytest.raises(HeadError, match="class 3 has none"):
        growing.add_classes(support, labels + 4)
    with pytest.raises(HeadError, match="no new class"):
        growing.add_classes(support[:0], labels[:0])
    with pytest.raises(HeadError, match="only then; this one does not"):
        growing.add_classes(support, labels + 3, label_embeddings=names)
    with pytest.raises(HeadError, match="only then; this one does"):
        named.add_classes(support, labels + 3)
    with pytest.raises(HeadError, match="not the state of a growing head"):
        GrowingHead.from_state({}, {})
