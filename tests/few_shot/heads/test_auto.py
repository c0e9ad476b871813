"""What ``head="auto"`` chooses, and that it chooses from the supports alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hf_fsl.few_shot.heads import ESTIMATORS, HeadError, auto, choose_head, fit_head, held_out_logits
from hf_fsl.few_shot.heads.temperature import best_scale

CLASSES, DIMENSION = 8, 64


def draw(counts: list[int], seed: int = 0, noise: float = 2.5) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Supports, labels, queries, their labels, and label embeddings as far from the class means as an example is."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, DIMENSION, generator=rng) / DIMENSION**0.5

    means = normal(CLASSES)
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor(counts))
    queries = torch.arange(CLASSES).repeat_interleave(100)
    return (
        means[labels] + noise * normal(len(labels)),
        labels,
        means[queries] + noise * normal(len(queries)),
        queries,
        means + noise * normal(CLASSES),
    )


def accuracy(head, queries: Tensor, labels: Tensor) -> float:
    return float((head(queries).argmax(-1) == labels).float().mean())


@pytest.mark.parametrize("k", [1, 2, 8])
def test_names_help_and_wrong_names_do_not_hurt(k):
    gains, losses = [], []
    for seed in range(8):
        support, labels, queries, wanted, names = draw([k] * CLASSES, seed)
        without = accuracy(choose_head(support, labels).head, queries, wanted)
        gains.append(accuracy(choose_head(support, labels, label_embeddings=names).head, queries, wanted) - without)
        wrong = choose_head(support, labels, label_embeddings=names.roll(3, 0))
        losses.append(accuracy(wrong.head, queries, wanted) - without)
    mean = sum(gains) / len(gains)
    assert mean > {1: 0.06, 2: 0.03, 8: 0.01}[k]
    assert sum(losses) / len(losses) > {1: -0.07, 2: -0.04, 8: -0.02}[k]


def test_many_examples_of_classes_that_differ_where_little_varies():
    """There logistic regression gains on a covariance that is not shrunk next to nothing."""
    rng = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -2.5, DIMENSION)
    means = scale * torch.randn(20, DIMENSION, generator=rng)

    def examples(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(20).repeat_interleave(count)
        within = torch.cat([4 * scale[:8], 0.7 * scale[8:]])
        return means[labels] + within * torch.randn(len(labels), DIMENSION, generator=rng), labels

    (support, labels), (queries, wanted) = examples(24), examples(50)
    choice = choose_head(support, labels, normalize=False)
    logistic = choose_head(support, labels, candidates=["logistic"], normalize=False)
    assert accuracy(choice.head, queries, wanted) > accuracy(logistic.head, queries, wanted) - 0.005
    best = max(choice.table[:-1], key=lambda trial: trial.weight)
    assert best.hyperparameters["shrinkage"] < 0.05


@pytest.mark.parametrize("counts", [[1] * CLASSES, [4] * CLASSES, [1, 2, 3, 4, 1, 2, 3, 4]])
@pytest.mark.parametrize("named", [True, False])
def test_the_head_is_what_the_choice_says(counts, named):
    support, labels, queries, _, names = draw(counts)
    names = names if named else None
    choice = choose_head(support, labels, label_embeddings=names)
    head = fit_head(choice.estimator, support, labels, label_embeddings=names, **choice.hyperparameters)
    assert torch.allclose(head.scaled(1 / choice.temperature)(queries), choice.head(queries), atol=1e-4)
    assert choice.head(queries).dtype == torch.float32


def test_held_out_logits_are_those_of_the_choice_at_its_temperature():
    support, labels, _, _, names = draw([4] * CLASSES)
    choice = choose_head(support, labels, label_embeddings=names)
    wanted = held_out_logits(choice.estimator, support, labels, label_embeddings=names, **choice.hyperparameters)
    assert torch.allclose(choice.held_out_logits, wanted / choice.temperature, atol=1e-4)
    assert float(best_scale(choice.held_out_logits.double(), labels)[0]) == pytest.approx(1, abs=1e-3)


def test_the_temperature_calibrates():
    gaps = []
    for seed in range(10):
        support, labels, queries, wanted, names = draw([4] * CLASSES, seed)
        logits = choose_head(support, labels, label_embeddings=names).head(queries)
        gaps.append(float(logits.softmax(-1).amax(-1).mean() - (logits.argmax(-1) == wanted).float().mean()))
    assert abs(sum(gaps) / len(gaps)) < 0.06


def test_some_classes_with_one_example():
    support, labels, queries, wanted, names = draw([1, 1, 1, 1, 6, 6, 6, 6])
    choice = choose_head(support, labels, label_embeddings=names)
    alone = labels < 4
    assert choice.held_out_logits.isnan().all(-1).tolist() == alone.tolist()
    few = wanted < 4
    nearest = accuracy(fit_head("nearest_mean", support, labels), queries[few], wanted[few])
    assert accuracy(choice.head, queries[few], wanted[few]) > nearest


def test_one_example_a_class_takes_the_defaults_and_says_so():
    support, labels, _, _, names = draw([1] * CLASSES)
    choice = choose_head(support, labels, label_embeddings=names)
    assert choice.held_out_logits is None and choice.table == ()
    assert "nothing can be held out" in choice.reason and "a name weighs as much as" in choice.reason
    assert choose_head(support, labels).hyperparameters["name_weight"] == 0


def test_without_examples_it_is_the_zero_shot_classifier():
    _, _, queries, _, names = draw([1] * CLASSES)
    choice = choose_head(queries[:0], torch.empty(0, dtype=torch.long), label_embeddings=names)
    assert (choice.head(queries).argmax(-1) == (queries @ normalize(names, dim=-1).T).argmax(-1)).all()
    assert choice.estimator == "anchored" and "no examples" in choice.reason


def test_a_class_may_have_its_name_only():
    support, labels, queries, wanted, names = draw([0, 3, 3, 3, 3, 3, 3, 3])
    head = choose_head(support, labels, label_embeddings=names).head
    assert accuracy(head, queries[wanted == 0], wanted[wanted == 0]) > 0.25
    with pytest.raises(HeadError, match="needs an example of every class"):
        choose_head(support, labels, num_classes=CLASSES)


def test_whatever_is_chosen_does_not_depend_on_the_scale_of_the_embeddings():
    support, labels, queries, _, names = draw([3] * CLASSES)
    one = choose_head(support, labels, label_embeddings=names, normalize=False)
    other = choose_head(100 * support, labels, label_embeddings=names, normalize=False)
    assert torch.allclose(other.head(100 * queries), one.head(queries), atol=1e-2)
    assert one.head.transform.linear


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "named_lda"])
def test_other_candidates_can_be_asked_for(name):
    support, labels, queries, wanted, names = draw([4] * CLASSES)
    choice = choose_head(support, labels, label_embeddings=names, candidates=[name])
    assert choice.estimator == name and accuracy(choice.head, queries, wanted) > 0.4
    assert [trial.estimator for trial in choice.table] == [name] * len(ESTIMATORS[name].grid)
    head = fit_head(name, support, labels, label_embeddings=names, **choice.hyperparameters).scaled(
        1 / choice.temperature
    )
    assert torch.allclose(head(queries), choice.head(queries), atol=1e-4)


def test_the_candidate_with_the_best_held_out_loss_wins():
    support, labels, _, _, names = draw([4] * CLASSES)
    both = choose_head(support, labels, label_embeddings=names, candidates=["named_lda", "nearest_mean", "ridge"])
    chosen = min((trial for trial in both.table if trial.weight > 0), key=lambda trial: trial.loss)
    assert both.estimator == chosen.estimator


def test_bad_input():
    support, labels, _, _, names = draw([2] * CLASSES)
    with pytest.raises(HeadError, match="must be finite"):
        choose_head(support * torch.nan, labels)
    with pytest.raises(HeadError, match="at least two classes"):
        choose_head(support, torch.zeros_like(labels))
    with pytest.raises(HeadError, match="Candidates are among"):
        choose_head(support, labels, candidates=["svm"])
    with pytest.raises(HeadError, match="one support set"):
        choose_head(support.expand(2, -1, -1), labels.expand(2, -1))
    one = torch.arange(CLASSES) * 2
    with pytest.raises(HeadError, match="at least two examples"):
        choose_head(support[one], labels[one], label_embeddings=names, candidates=["ridge"])


def test_the_best_scale_minimises_the_loss():
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (40,), generator=rng)
    logits = torch.randn(3, 40, 5, generator=rng, dtype=torch.float64)
    logits[torch.arange(3)[:, None], torch.arange(40), labels] += 1
    scale, loss = best_scale(logits, labels)

    def at(factor: Tensor, smoothing: float) -> Tensor:
        likelihoods = (factor[:, None, None] * logits).log_softmax(-1)
        own = likelihoods[:, torch.arange(40), labels]
        return -((1 - smoothing) * own + smoothing * likelihoods.mean(-1)).mean(-1)

    assert torch.allclose(loss, at(scale, 0))
    for other in (1.01, 0.99):
        assert (at(scale, 1 / 41) < at(other * scale, 1 / 41)).all()
    separable = torch.eye(5, dtype=torch.float64)[labels]
    assert float(best_scale(separable, labels)[0]) < 10


def test_the_choice_is_by_weighed_losses():
    rng, labels = torch.Generator().manual_seed(0), torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    support = (torch.randn(3, 6, generator=rng)[labels] + torch.randn(10, 6, generator=rng)).double()
    queries = torch.randn(20, 6, generator=rng).double()
    plain, ones = choose_head(support, labels), choose_head(support, labels, weights=torch.ones(10))
    torch.testing.assert_close(plain.head(queries), ones.head(queries))
    assert plain.reason == ones.reason
    for candidates in (None, ["lda", "ridge"]):
        heavy = choose_head(support, labels, weights=100.0 * (labels == 0) + 1, candidates=candidates)
        assert heavy.head(queries).argmax(-1).tolist() != plain.head(queries).argmax(-1).tolist()
        # One logits matrix judged by the weights: the loss of the table is the weighed one.
        losses = torch.nn.functional.cross_entropy(heavy.held_out_logits, labels, reduction="none")
        weights = 100.0 * (labels == 0) + 1
        best = min(heavy.table, key=lambda trial: trial.loss) if candidates else heavy.table[-1]
        assert best.loss == pytest.approx(float((losses @ weights.double()) / weights.sum()), rel=1e-4)


def test_of_thousands_of_classes_a_part_is_held_out(monkeypatch):
    """The choice then costs as much as there are classes, not their square; of few classes nothing changes."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(40).repeat_interleave(2)
    support = torch.randn(40, 30, generator=rng)[labels] + 0.8 * torch.randn(80, 30, generator=rng)
    whole = choose_head(support, labels)
    assert "on 80 examples" in whole.reason
    monkeypatch.setattr(auto, "HELD_OUT_CELLS", 40 * 60)
    monkeypatch.setattr(auto, "HELD_OUT_LEAST", 10)
    part = choose_head(support, labels)
    assert "on 60 examples" in part.reason
    held = part.held_out_logits.isfinite().all(-1)
    assert int(held.sum()) == 60
    queries = support + 0.2 * torch.randn(80, 30, generator=rng)
    assert (part.head(queries).argmax(-1) == whole.head(queries).argmax(-1)).float().mean() > 0.95
    assert part.temperature == pytest.approx(whole.temperature, rel=0.2)
    expected = held_out_logits("named_lda", support, labels, **part.hyperparameters)[held] / part.temperature
    torch.testing.assert_close(part.held_out_logits[held], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(choose_head(support, labels).head(queries), part.head(queries))
