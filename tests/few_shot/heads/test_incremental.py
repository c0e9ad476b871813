"""Growing is refitting: with transform and hyperparameters held, to 1e-6."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_fsl.few_shot.heads import ESTIMATORS, GrowingHead, HeadError, choose_head, fit_head
from hf_fsl.few_shot.heads.estimators import GROWING

NAMES = list(ESTIMATORS)
SETTINGS: dict[str, dict] = {
    "cache": {"logit_scale": 5.0},
    "lda": {"shrinkage": 0.2, "class_prior": "counts"},
    "named_lda": {"shrinkage": ((0.3, 0.5), (0.9, 0.4)), "name_weight": 0.7},
    "logistic": {"inverse_penalty": 0.5},
}
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
    head = fit_head(name, support, labels, label_embeddings=names, **SETTINGS.get(name, {}))
    return GrowingHead.of(
        name,
        support,
        labels,
        transform=head.transform,
        label_embeddings=names,
        hyperparameters=SETTINGS.get(name, {}),
        temperature=0.5,
        keep_embeddings=name not in GROWING,
    )


def refitted(name: str, support: Tensor, labels: Tensor, names: Tensor | None, centre: Tensor | None):
    return fit_head(name, support, labels, label_embeddings=names, base_mean=centre, **SETTINGS.get(name, {})).scaled(
        2.0
    )


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_adding_examples_and_classes_is_refitting(name, named, tmp_path):
    support, labels, names = data([4, 7, 5, 3, 6])
    first = (labels < 3) & (torch.arange(25) % 2 == 0)
    later = (labels < 3) & ~first
    new = labels >= 3
    growing = start(name, support[first], labels[first], names[:3] if named else None)
    centre = growing.transform.centre
    grown = growing.add_examples(support[later], labels[later])
    wanted = refitted(name, support[labels < 3], labels[labels < 3], names[:3] if named else None, centre)
    assert torch.allclose(centred(grown.head()(QUERIES)), centred(wanted(QUERIES)), atol=1e-6)

    tensors, metadata = grown.state()
    save_file(tensors, tmp_path / "growing.safetensors", metadata)
    with safe_open(tmp_path / "growing.safetensors", "pt") as file:
        grown = GrowingHead.from_state({key: file.get_tensor(key) for key in file.keys()}, file.metadata())  # noqa: SIM118
    grown = grown.add_classes(support[new], labels[new], label_embeddings=names[3:] if named else None)
    order = torch.cat([first.nonzero(), later.nonzero(), new.nonzero()]).flatten()
    wanted = refitted(name, support[order], labels[order], names if named else None, centre)
    assert grown.num_classes == 5
    assert torch.allclose(centred(grown.head()(QUERIES)), centred(wanted(QUERIES)), atol=1e-6)


@pytest.mark.parametrize("name", GROWING)
def test_from_one_example_a_class_and_more_dimensions_than_examples(name):
    support, labels, names = data([3, 3, 3], 40)
    queries = torch.randn(9, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one = torch.tensor([0, 3, 6])
    rest = torch.tensor([1, 2, 4, 5, 7, 8])
    growing = start(name, support[one], labels[one], names)
    wanted = refitted(name, support[one], labels[one], names, growing.transform.centre)
    assert torch.allclose(centred(growing.head()(queries)), centred(wanted(queries)), atol=1e-6)
    grown = growing.add_examples(support[rest], labels[rest])
    wanted = refitted(name, support, labels, names, growing.transform.centre)
    assert torch.allclose(centred(grown.head()(queries)), centred(wanted(queries)), atol=1e-6)


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
