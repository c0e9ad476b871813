"""One contract for every estimator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hf_fsl.few_shot.heads import ESTIMATORS, HeadError, fit_head, held_out_logits
from hf_fsl.models.export import CacheHead
from tests.helpers.heads_by_formula import reference

NAMES = list(ESTIMATORS)
CLOSED = [name for name in NAMES if ESTIMATORS[name].leave_one_out is not None]
SETTINGS: dict[str, dict] = {
    "cache": {"alpha": 2.0, "logit_scale": 5.0},
    "anchored": {"strength": 0.5},
    "named_lda": {"shrinkage": 0.6, "name_weight": 0.5},
}
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


@pytest.mark.parametrize("counts", [(4, 4, 4), (2, 5, 9), (1, 1, 1, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_permuting_the_classes_permutes_the_logits(name, counts):
    support, labels, names = support_set(counts)
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(1))
    place = order.argsort()
    logits = fit(name, support, labels, names)(QUERIES)
    permuted = fit(name, support, place[labels], names[order])(QUERIES)
    assert torch.allclose(permuted, logits[:, order], atol=1e-3 if name == "logistic" else 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_supports_is_nothing(name):
    support, labels, names = support_set((3, 4, 5))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    wanted = fit(name, support, labels, names)(QUERIES)
    atol = 1e-3 if name == "logistic" else 1e-9
    assert torch.allclose(fit(name, support[order], labels[order], names)(QUERIES), wanted, atol=atol)


@pytest.mark.parametrize("name", NAMES)
def test_duplicated_supports(name):
    support, labels, names = support_set((2, 2, 2))
    twice = fit(name, support.repeat(2, 1), labels.repeat(2), names)(QUERIES)
    once = fit(name, support, labels, names)(QUERIES)
    assert twice.isfinite().all()
    if name in ("nearest_mean", "cosine", "cl2n", "lda"):
        assert torch.allclose(twice, once, atol=1e-9)


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


@pytest.mark.parametrize("dimension", [5, 40])
@pytest.mark.parametrize("counts", [(3, 3, 3), (2, 6, 4)])
@pytest.mark.parametrize("name", CLOSED)
def test_leave_one_out_is_refitting(name, counts, dimension):
    support, labels, names = support_set(counts, dimension)
    settings = dict(SETTINGS.get(name, {}))
    estimator = ESTIMATORS[name]
    mean = support.mean(0)
    held_out = held_out_logits(name, support, labels, label_embeddings=names, base_mean=mean, **settings)
    if name == "named_lda":
        features = normalize(support, dim=-1)
        settings["middle"] = torch.stack([features[labels == c].mean(0) for c in range(3)]).mean(0)
        settings["unit"] = float((features - settings["middle"]).square().sum(-1).mean())
        settings["shrinkage"] = ((0.3, 0.5), (0.9, 0.4))
        held_out = held_out_logits(name, support, labels, label_embeddings=names, **settings)
    if name in ("ridge", "anchored"):
        features = support - mean if name == "ridge" else normalize(support, dim=-1)
        settings["unit"] = float(features.square().sum(-1).mean())
    if estimator.centre:
        settings["base_mean"] = mean
    for out in range(len(labels)):
        kept = torch.arange(len(labels)) != out
        head = fit_head(name, support[kept], labels[kept], label_embeddings=names, **settings)
        wanted, got = head(support[out : out + 1])[0], held_out[out]
        assert torch.allclose(centred(got), centred(wanted), atol=1e-8), out


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
@pytest.mark.parametrize("name", CLOSED)
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
def test_without_supports_the_prior_is_the_classifier(name):
    _, _, names = support_set((2, 2, 2))
    head = fit_head(
        name, torch.empty(0, 12, dtype=torch.float64), torch.empty(0, dtype=torch.long), label_embeddings=names
    )
    cosines = normalize(QUERIES, dim=-1) @ normalize(names, dim=-1).T
    assert (head(QUERIES).argmax(-1) == cosines.argmax(-1)).all()
    if not isinstance(head, CacheHead):
        assert torch.allclose(head(QUERIES), 3 * centred(cosines), atol=1e-9)


@pytest.mark.parametrize("name", ["anchored", "named_lda", "cache"])
def test_with_a_prior_a_class_needs_no_support(name):
    support, labels, names = support_set((2, 2, 2))
    kept = labels != 1
    head = fit_head(name, support[kept], labels[kept], label_embeddings=names)
    assert head.num_classes == 3 and head(QUERIES).isfinite().all()


@pytest.mark.parametrize("name", ["nearest_mean", "cosine", "cl2n", "lda", "ridge", "logistic"])
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
