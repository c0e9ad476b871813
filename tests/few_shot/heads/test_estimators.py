"""One contract for every estimator of the registry: a new one is held to it by its line there."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize, pad

from hf_fsl.config.few_shot import Head
from hf_fsl.few_shot.heads import ESTIMATORS, GrowingHead, HeadError, fit_head, held_out_logits
from hf_fsl.few_shot.heads.estimators import GROWING
from hf_fsl.models.export import CacheHead
from tests.helpers.heads_by_formula import FORMULAS, reference

NAMES = list(ESTIMATORS)
CLOSED = [name for name in NAMES if ESTIMATORS[name].leave_one_out is not None]
NAMED = [name for name in NAMES if ESTIMATORS[name].uses_label_embeddings]
SETTINGS: dict[str, dict] = {
    "cache": {"alpha": 2.0, "logit_scale": 5.0},
    "anchored": {"strength": 0.5},
    "named_lda": {"shrinkage": 0.6, "name_weight": 0.5},
}
"""Where the defaults would hide what is looked at."""
MEAN = torch.full((12,), 0.5, dtype=torch.float64)
HELD: dict[str, dict] = {
    "cl2n": {"base_mean": MEAN},
    "lda": {"class_prior": "counts"},
    "ridge": {"unit": 3.0},
    "anchored": {"unit": 3.0},
    "named_lda": {"shrinkage": ((0.3, 0.5), (0.9, 0.4)), "middle": 0.1 * MEAN, "unit": 2.0},
}
"""What one fit reads off all supports, and leaving one of them out holds."""
GROWN = SETTINGS | {
    "lda": {"shrinkage": 0.2, "class_prior": "counts"},
    "named_lda": {"shrinkage": ((0.3, 0.5), (0.9, 0.4)), "name_weight": 0.7},
}
LOOSE = {"logistic": 1e-3}
"""Absolute tolerance where it is not that of rounding: iterations end somewhere near."""
QUERIES = torch.randn(20, 12, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def support_set(counts: tuple[int, ...], dimension: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Supports, labels in mixed order, and label embeddings that say something of the class means."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(len(counts), dimension, generator=rng, dtype=torch.float64) + 1
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=rng)]
    noise = torch.randn(len(labels), dimension, generator=rng, dtype=torch.float64)
    names = means + torch.randn(len(counts), dimension, generator=rng, dtype=torch.float64)
    return means[labels] + noise, labels, names


def fit(name: str, support: Tensor, labels: Tensor, names: Tensor, **more):
    return fit_head(name, support, labels, label_embeddings=names, **SETTINGS.get(name, {}), **more)


def centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)


def test_the_recipe_takes_every_estimator():
    assert set(get_args(Head)) == {"auto", *ESTIMATORS}


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_fit_gives(name, batch):
    support, labels, names = (part.expand(*batch, *part.shape) for part in support_set((2, 3, 4)))
    head = fit(name, support, labels, names)
    assert head.num_classes == 3
    if isinstance(head, CacheHead):
        assert head.keys.shape == (*batch, 9, 12) and head.values.shape == (*batch, 9, 3)
    else:
        assert head.weight.shape == (*batch, 3, 12) and head.bias.shape == (*batch, 3)
    assert head.transform.normalize == ESTIMATORS[name].normalize
    assert (head.transform.centre is not None) == ESTIMATORS[name].centre
    logits, held_out = head(QUERIES), held_out_logits(name, support, labels, label_embeddings=names)
    assert logits.shape == (*batch, 20, 3) and held_out.shape == (*batch, 9, 3)
    assert logits.isfinite().all() and held_out.isfinite().all()
    assert logits.dtype == held_out.dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_a_head_folds_where_its_transform_is_affine(name):
    if ESTIMATORS[name].transform_is_fixed and ESTIMATORS[name].normalize:
        pytest.skip("of length 1, by definition")
    support, labels, names = support_set((3, 4, 5))
    head = fit(name, support, labels, names, normalize=False, centre=True)
    assert torch.allclose(head.folded()(QUERIES), head(QUERIES), atol=1e-9)
    with pytest.raises(ValueError, match="cannot be folded"):
        fit(name, support, labels, names, normalize=True).folded()


@pytest.mark.parametrize("counts", [(4, 4, 4), (2, 5, 9), (1, 1, 1, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_permuting_the_classes_permutes_the_logits(name, counts):
    support, labels, names = support_set(counts)
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(1))
    place = order.argsort()
    logits = fit(name, support, labels, names)(QUERIES)
    permuted = fit(name, support, place[labels], names[order])(QUERIES)
    assert torch.allclose(permuted, logits[:, order], atol=LOOSE.get(name, 1e-9))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_supports_is_nothing(name):
    support, labels, names = support_set((3, 4, 5))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    wanted = fit(name, support, labels, names)(QUERIES)
    atol = 1e-3 if name == "logistic" else 1e-9
    assert torch.allclose(fit(name, support[order], labels[order], names)(QUERIES), wanted, atol=atol)


@pytest.mark.parametrize("name", NAMES)
def test_supports_that_are_all_the_same_example_of_their_class(name):
    support, labels, names = support_set((1, 1, 1))
    logits = fit(name, support.repeat(3, 1), labels.repeat(3), names)(support)
    assert logits.isfinite().all()
    assert (logits.argmax(-1) == labels).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_example_a_class(name):
    support, labels, names = support_set((1, 1, 1, 1))
    head = fit(name, support, labels, names)
    assert (head(support).argmax(-1) == labels).all()
    with pytest.raises(HeadError, match="at least two examples of every class"):
        held_out_logits(name, support, labels, label_embeddings=names)


@pytest.mark.parametrize("name", NAMES)
def test_batched_equals_one_by_one(name):
    sets = [support_set((2, 3, 4), seed=seed) for seed in range(6)]
    support, labels, names = (torch.stack(part).unflatten(0, (2, 3)) for part in zip(*sets, strict=True))
    queries = torch.stack([QUERIES + seed for seed in range(6)]).unflatten(0, (2, 3))
    logits = fit(name, support, labels, names)(queries)
    held_out = held_out_logits(name, support, labels, label_embeddings=names)
    assert logits.shape == (2, 3, 20, 3) and held_out.shape == (2, 3, 9, 3)
    for seed, one in enumerate(sets):
        place = divmod(seed, 3)
        assert torch.allclose(logits[place], fit(name, *one)(queries[place]), atol=1e-9)
        assert torch.allclose(held_out[place], held_out_logits(name, *one[:2], label_embeddings=one[2]), atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_what_float64_gives(name):
    support, labels, names = support_set((3, 4, 5))
    head = fit(name, support.float(), labels, names.float())
    logits = head(QUERIES.float())
    assert logits.dtype == torch.float32
    wanted = fit(name, support, labels, names)(QUERIES)
    assert torch.allclose(logits.double(), wanted, rtol=1e-4, atol=2e-2 if name == "logistic" else 1e-4)


@pytest.mark.parametrize("dimension", [12, 52])
@pytest.mark.parametrize("name", NAMES)
def test_a_support_of_weight_two_is_the_same_given_twice(name, dimension):
    support, labels, names = support_set((3, 4, 3), dimension)
    weights, queries = torch.tensor([1, 2, 1, 3, 1, 1, 2, 1, 1, 4]), pad(QUERIES, (0, dimension - 12))
    weighed = fit(name, support, labels, names, weights=weights)(queries)
    twice = fit(name, support.repeat_interleave(weights, 0), labels.repeat_interleave(weights), names)(queries)
    assert torch.allclose(weighed, twice, rtol=1e-4, atol=LOOSE.get(name, 1e-7))
    once = fit(name, support, labels, names)(queries)
    assert not torch.allclose(weighed, once, rtol=1e-3)
    assert torch.allclose(fit(name, support, labels, names, weights=torch.ones(10))(queries), once)


@pytest.mark.parametrize("weights", [torch.ones(9), torch.zeros(10), torch.full((10,), torch.nan)])
def test_weights_that_are_none_are_told(weights):
    support, labels, _ = support_set((3, 4, 3))
    with pytest.raises(HeadError, match="Weights are one finite number above 0 a support"):
        fit_head("lda", support, labels, weights=weights)


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("dimension", [5, 40])
@pytest.mark.parametrize("counts", [(3, 3, 3), (2, 6, 4)])
@pytest.mark.parametrize("name", CLOSED)
def test_leave_one_out_is_refitting(name, counts, dimension, weighed):
    """A weighed support is left out whole."""
    support, labels, names = support_set(counts, dimension)
    weights = torch.arange(1, len(labels) + 1) / 3 if weighed else torch.ones(len(labels))
    held = {key: value[:1].expand(dimension) if isinstance(value, Tensor) else value
            for key, value in HELD.get(name, {}).items()}  # fmt: skip
    options = {**SETTINGS.get(name, {}), **held, "label_embeddings": names, "num_classes": 3}
    held_out = held_out_logits(name, support, labels, weights=weights, **options)
    for out in range(len(labels)):
        kept = torch.arange(len(labels)) != out
        head = fit_head(name, support[kept], labels[kept], weights=weights[kept], **options)
        wanted = head(support[out : out + 1])[0]
        assert torch.allclose(centred(held_out[out]), centred(wanted), rtol=1e-6, atol=1e-8), out


def growing(name: str, support: Tensor, labels: Tensor, names: Tensor | None, weights: Tensor | None) -> GrowingHead:
    settings = GROWN.get(name, {})
    head = fit_head(name, support, labels, label_embeddings=names, weights=weights, **settings)
    return GrowingHead.of(
        name, support, labels, transform=head.transform, label_embeddings=names, weights=weights,
        hyperparameters=settings, temperature=0.5, keep_embeddings=name not in GROWING,
    )  # fmt: skip


@pytest.mark.parametrize("with_names", [True, False])
@pytest.mark.parametrize("weighed", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_adding_examples_and_classes_is_refitting(name, weighed, with_names, tmp_path):
    """With transform and hyperparameters held, to 1e-6; through a file in between."""
    support, labels, names = support_set((4, 7, 5, 3, 6))
    weights = torch.arange(1, 26) / 9 if weighed else None
    first = (labels < 3) & (torch.arange(25) % 2 == 0)
    later, new = (labels < 3) & ~first, labels >= 3

    def part(rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return support[rows], labels[rows], None if weights is None else weights[rows]

    def refitted(rows: Tensor, classes: int):
        of_rows, own, each = part(rows)
        known = names[:classes] if with_names else None
        settings = {"label_embeddings": known, "weights": each, "base_mean": start.transform.centre}
        return centred(fit_head(name, of_rows, own, **settings, **GROWN.get(name, {})).scaled(2.0)(QUERIES))

    of_first, own, each = part(first)
    start = growing(name, of_first, own, names[:3] if with_names else None, each)
    assert torch.allclose(centred(start.head()(QUERIES)), refitted(first.nonzero().flatten(), 3), atol=1e-6)
    of_later, own, each = part(later)
    grown = start.add_examples(of_later, own, weights=each)
    order = torch.cat([first.nonzero(), later.nonzero()]).flatten()
    atol = LOOSE.get(name, 1e-6) if weighed else 1e-6
    assert torch.allclose(centred(grown.head()(QUERIES)), refitted(order, 3), atol=atol)

    tensors, metadata = grown.state()
    save_file(tensors, tmp_path / "growing.safetensors", metadata)
    with safe_open(tmp_path / "growing.safetensors", "pt") as file:
        grown = GrowingHead.from_state({key: file.get_tensor(key) for key in file.keys()}, file.metadata())  # noqa: SIM118
    of_new, own, each = part(new)
    grown = grown.add_classes(of_new, own, label_embeddings=names[3:] if with_names else None, weights=each)
    assert grown.num_classes == 5
    order = torch.cat([order, new.nonzero().flatten()])
    assert torch.allclose(centred(grown.head()(QUERIES)), refitted(order, 5), atol=atol)


@pytest.mark.parametrize("name", GROWING)
def test_growing_from_one_example_a_class_and_more_dimensions_than_examples(name):
    support, labels, names = support_set((3, 3, 3), 40)
    queries = pad(QUERIES, (0, 28))
    one = torch.stack([(labels == number).nonzero()[0, 0] for number in range(3)])
    rest = torch.tensor([row for row in range(9) if row not in one])
    start = growing(name, support[one], labels[one], names, None)
    grown = start.add_examples(support[rest], labels[rest])
    for head, rows in ((start, one), (grown, torch.arange(9))):
        settings = {"label_embeddings": names, "base_mean": start.transform.centre, **GROWN.get(name, {})}
        wanted = fit_head(name, support[rows], labels[rows], **settings).scaled(2.0)
        assert torch.allclose(centred(head.head()(queries)), centred(wanted(queries)), atol=1e-6)


def test_a_head_without_weights_grows_by_weighed_examples():
    support, labels, names = support_set((3, 4, 3))
    weights = torch.tensor([2.0, 0.5])
    for name in NAMES:
        start = growing(name, support[:8], labels[:8], names, None)
        grown = start.add_examples(support[8:], labels[8:], weights=weights).head()
        both = torch.cat([torch.ones(8), weights])
        base = {"base_mean": start.transform.centre}
        wanted = fit_head(name, support, labels, label_embeddings=names, weights=both, **base, **GROWN.get(name, {}))
        assert torch.allclose(centred(grown(QUERIES)), centred(2 * wanted(QUERIES)), atol=LOOSE.get(name, 1e-6)), name


def test_leave_one_out_follows_the_class_prior_of_the_rest():
    support, labels, _ = support_set((2, 6, 4))
    held_out = held_out_logits("lda", support, labels, class_prior="counts")
    kept = torch.arange(12) != 3
    wanted = fit_head("lda", support[kept], labels[kept], class_prior="counts")(support[3:4])[0]
    assert torch.allclose(centred(held_out[3]), centred(wanted), atol=1e-8)


def test_k_fold_holds_out_what_it_scores():
    support, labels, _ = support_set((2, 3, 2))
    held_out = held_out_logits("logistic", support, labels, folds=3)
    fold = torch.tensor([int((labels[:i] == labels[i]).sum()) for i in range(7)]) % 3
    for number in range(3):
        wanted = fit_head("logistic", support[fold != number], labels[fold != number])(support[fold == number])
        assert torch.allclose(held_out[fold == number], wanted, atol=1e-9)


@pytest.mark.parametrize("dimension", [5, 40])
@pytest.mark.parametrize("name", FORMULAS)
def test_float64_reference(name, dimension):
    support, labels, names = support_set((3, 6, 4), dimension)
    queries = torch.randn(8, dimension, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    wanted = torch.from_numpy(reference(name, *(one.numpy() for one in (support, labels, names, queries))))
    assert torch.allclose(centred(fit(name, support, labels, names)(queries)), centred(wanted), atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_bad_input(name):
    support, labels, names = support_set((3, 3, 3))
    with pytest.raises(HeadError, match="must be finite"):
        fit(name, support.index_fill(0, torch.tensor([4]), torch.nan), labels, names)
    with pytest.raises(HeadError, match="run from 0 to 2, got 0 to 3"):
        fit(name, support, torch.where(labels == 2, 3, labels), names)
    with pytest.raises(HeadError, match="at least two classes"):
        fit_head(name, support, torch.zeros_like(labels))
    with pytest.raises(HeadError, match="one integer"):
        fit(name, support, labels[:-1], names)
    with pytest.raises(HeadError, match="one integer"):
        fit(name, support, labels.float(), names)
    with pytest.raises(HeadError, match=r"label_embeddings has one row a class.*\(C, 12\)"):
        fit(name, support, labels, names[:, :-1])
    with pytest.raises(HeadError, match="as many label embeddings"):
        fit_head(name, support, labels, num_classes=4, label_embeddings=names)
    with pytest.raises(HeadError, match="base_mean"):
        fit(name, support, labels, names, base_mean=torch.zeros(3))
    with pytest.raises(HeadError, match="class 3 of 4 has none"):
        fit_head(name, support, labels, num_classes=4)
    with pytest.raises(HeadError, match="has the hyperparameters .*; got depth"):
        fit(name, support, labels, names, depth=3)


def test_an_unknown_head_is_refused_with_the_known_ones():
    support, labels, _ = support_set((2, 2))
    with pytest.raises(HeadError, match="nearest_mean, cosine, cl2n"):
        fit_head("svm", support, labels)
    with pytest.raises(HeadError, match="got 'prior', which is now called 'anchored'"):
        fit_head("prior", support, labels)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lda", {"shrinkage": 0.0}, "shrinkage lies above 0"),
        ("lda", {"class_prior": "flat"}, "class_prior is"),
        ("ridge", {"penalty": 0.0}, "penalty must be above 0"),
        ("anchored", {"penalty": -1.0}, "penalty must be above 0"),
        ("logistic", {"inverse_penalty": 0.0}, "inverse_penalty must be above 0"),
        ("named_lda", {"pseudo_count": 0.0}, "pseudo_count must be above 0"),
        ("named_lda", {"name_weight": -1.0}, "name_weight must not be below 0"),
        ("cosine", {"normalize": False}, "cosine is defined with"),
    ],
)
def test_settings_out_of_range(name, settings, message):
    support, labels, _ = support_set((2, 2))
    with pytest.raises(HeadError, match=message):
        fit_head(name, support, labels, **settings)


@pytest.mark.parametrize("name", ["anchored", "cache"])
def test_without_supports_the_names_are_the_classifier(name):
    _, _, names = support_set((2, 2, 2))
    head = fit_head(
        name, torch.empty(0, 12, dtype=torch.float64), torch.empty(0, dtype=torch.long), label_embeddings=names
    )
    cosines = normalize(QUERIES, dim=-1) @ normalize(names, dim=-1).T
    assert (head(QUERIES).argmax(-1) == cosines.argmax(-1)).all()
    if not isinstance(head, CacheHead):
        assert torch.allclose(head(QUERIES), 3 * centred(cosines), atol=1e-9)


@pytest.mark.parametrize("name", NAMED)
def test_with_a_name_a_class_needs_no_support(name):
    support, labels, names = support_set((2, 2, 2))
    kept = labels != 1
    head = fit_head(name, support[kept], labels[kept], label_embeddings=names)
    assert head.num_classes == 3 and head(QUERIES).isfinite().all()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NAMED])
def test_without_supports_the_others_refuse(name):
    _, _, names = support_set((2, 2, 2))
    with pytest.raises(HeadError, match="needs an example of every class"):
        fit_head(name, torch.empty(0, 12), torch.empty(0, dtype=torch.long), label_embeddings=names)


def test_lda_at_one_shot_is_the_nearest_mean():
    support, labels, _ = support_set((1, 1, 1, 1))
    nearest = fit_head("nearest_mean", support, labels, scale=0.5)
    for shrinkage in (0.1, 0.9):
        lda = fit_head("lda", support, labels, shrinkage=shrinkage)
        assert torch.allclose(centred(lda(QUERIES)), centred(nearest(QUERIES)), atol=1e-9)


def test_named_lda_without_names_is_lda():
    support, labels, names = support_set((4, 4, 4))
    lda = fit_head("lda", support, labels, normalize=True, shrinkage=0.3)(QUERIES)
    named = fit_head("named_lda", support, labels, label_embeddings=names, shrinkage=0.3, name_weight=0.0)(QUERIES)
    factor = centred(lda).norm() / centred(named).norm()
    assert torch.allclose(factor * centred(named), centred(lda), atol=1e-8)


def test_the_transform_can_be_asked_for():
    support, labels, _ = support_set((3, 3))
    asked = fit_head("nearest_mean", support, labels, centre=True, normalize=True)
    assert torch.equal(asked(QUERIES), fit_head("cl2n", support, labels)(QUERIES))
    lda = fit_head("lda", support, labels, normalize=True)
    assert torch.allclose(
        lda(QUERIES), fit_head("lda", normalize(support, dim=-1), labels)(normalize(QUERIES, dim=-1)), atol=1e-9
    )
