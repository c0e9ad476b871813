"""The search over members, the audit and the finish, on tasks whose truth is known by construction."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from planted import PlantedModel, planted_split

from hf_fsl.search.alone import predict, renew_head, train_alone
from hf_fsl.search.audit import Anchors, audit, choose_anchors, conclude, constant_losses
from hf_fsl.search.data import SearchData
from hf_fsl.search.errors import SearchError
from hf_fsl.search.finish import compare, diverse_points, retrain
from hf_fsl.search.fronts import non_dominated_ranks
from hf_fsl.search.nas import MemberScore, objectives, search_members
from hf_fsl.search.space import Architecture, SearchSpace, find_sites
from hf_fsl.search.supernet import SupernetConfig, train_supernet

CONFIG = SupernetConfig(
    max_steps=100, learning_rate=5e-2, per_device_train_batch_size=32, scaling=1.0, early_stopping_patience=None
)
QUICK = dataclasses.replace(CONFIG, eval_steps=50)


def trained_on(random_labels=False, seed=0, count=96, validation=64, config=CONFIG):
    model = PlantedModel()
    sites = find_sites(model, ["classifier"])
    data = SearchData(
        planted_split(count, seed + 1, random_labels=random_labels),
        planted_split(validation, seed + 2, random_labels=random_labels),
    )
    space = SearchSpace.from_dict(
        {"methods": ["lora", "none"], "ranks": [0, 1, 2], "scaling": [1.0], "dropout": [0.0],
         "learning_rate": [5e-2], "steps": [config.max_steps]},
        sites,
    )  # fmt: skip
    return model, data, space, train_supernet(model, data, space, config, seed=seed)


@pytest.fixture(scope="module")
def planted():
    return trained_on()


def test_the_one_site_that_matters_is_on_the_front(planted):
    _, _, space, trained = planted
    found = search_members(trained, members=120, population=24, seed=0)
    assert len(found.scores) == 120
    ranks = non_dominated_ranks(objectives([score for score in found.scores if score.finished]))
    assert len(found.front) <= (ranks == 0).sum()
    site = (2, space.sites.layers.index("layers.2"))
    assert space.sites.layers[site[1]] == "layers.2"
    alone = [
        score for score in found.front if sum(map(sum, score.architecture.ranks)) == score.architecture.ranks[2][2]
    ]
    best = min(score.loss for score in found.front)
    chosen = [score for score in alone if score.architecture.ranks[2][2]]
    assert chosen, [str(score.architecture) for score in found.front]
    assert min(score.loss for score in chosen) < best + 0.05 < 0.45
    without = [score.loss for score in found.scores if score.architecture.ranks[2][2] == 0]
    assert min(without) > 0.6


def test_search_is_the_same_again_with_the_same_seed(planted):
    *_, trained = planted
    first = search_members(trained, members=30, population=10, seed=5)
    again = search_members(trained, members=30, population=10, seed=5)
    assert [s.architecture for s in first.scores] == [s.architecture for s in again.scores]
    np.testing.assert_array_equal(objectives(first.front), objectives(again.front))


def test_latency_is_a_third_objective(planted):
    *_, trained = planted
    heard = []
    found = search_members(
        trained, members=20, population=8, seed=0, latency=lambda a: float(sum(map(sum, a.ranks))), tell=heard.append
    )
    assert objectives(found.scores).shape == (20, 3) and heard == found.scores


def test_losers_leave_the_race_early_and_are_estimated(planted):
    model, data, space, _ = planted
    bigger = SearchData(data.train, planted_split(256, 9))
    trained = train_supernet(model, bigger, space, CONFIG)
    found = search_members(trained, members=80, population=16, seed=0)
    early = [score for score in found.scores if not score.finished]
    assert early and all(len(score.losses) in (64, 128) for score in early)
    for score in early[:5]:
        assert score.loss == pytest.approx(float(trained.evaluator.losses(score.architecture).mean()), abs=0.2)
    assert all(len(score.losses) == 256 for score in found.front)


def test_audit_of_the_planted_task_says_that_architecture_matters(planted):
    model, data, _, trained = planted
    result = audit(model, data, trained, QUICK, strata=2, per_stratum=3, seeds=(0, 1))
    assert result.learned and result.architecture_matters and result.supernet_trusted, result.verdict
    assert result.tau_supernet > 0.4 and result.tau_repeated > 0.5
    assert result.verdict.startswith("Architecture matters more than noise")
    assert trained.meter.by_phase["audit"] > 0


def test_audit_of_random_labels_says_noise():
    short = dataclasses.replace(QUICK, max_steps=50)
    model, data, _, trained = trained_on(random_labels=True, config=short)
    result = audit(model, data, trained, short, strata=2, per_stratum=3, seeds=(0, 1))
    assert not result.learned and not result.architecture_matters and not result.supernet_trusted
    assert result.verdict.startswith("Noise: nothing was learned")


def test_random_labels_are_called_noise_whatever_the_seed():
    """The rule itself, on losses as random labels give them: larger adapters lose more, on every seed alike."""
    wrong = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        difficulty, overconfidence = rng.exponential(0.7, 60), rng.random(8) * 0.2
        losses = difficulty + overconfidence[:, None, None] + 0.1 * rng.standard_normal((8, 2, 60))
        constant = np.full(60, np.log(2))
        anchors = Anchors([Architecture.uniform(1, 2)] * 8, [0] * 4 + [1] * 4, rng.random(8).tolist(), [5] * 8)
        wrong += conclude(anchors, losses, constant, seed).architecture_matters
    assert wrong <= 5


def test_equal_architectures_are_called_noise_and_different_ones_are_not():
    matters = {0.0: 0, 0.3: 0}
    for effect in matters:
        for seed in range(50):
            rng = np.random.default_rng(seed)
            base = rng.exponential(0.3, 60)
            truth = effect * rng.standard_normal(8)
            losses = base + truth[:, None, None] + 0.05 * rng.standard_normal((8, 2, 1))
            losses = losses + 0.3 * rng.standard_normal((8, 2, 60))
            anchors = Anchors([Architecture.uniform(1, 2)] * 8, [0] * 4 + [1] * 4, truth.tolist(), [5] * 8)
            result = conclude(anchors, losses, np.full(60, np.log(4)), seed)
            matters[effect] += result.architecture_matters
            assert ("does not matter" in result.verdict) is (not result.architecture_matters)
    assert matters[0.0] <= 6 and matters[0.3] >= 40


def test_anchors_of_a_stratum_are_of_like_size_and_differ(planted):
    *_, trained = planted
    anchors = choose_anchors(trained, strata=2, per_stratum=4)
    assert len(set(anchors.architectures)) == 8
    head = trained.space.sites.head_parameters
    for stratum in (0, 1):
        sizes = [p - head for p, s in zip(anchors.parameters, anchors.strata, strict=True) if s == stratum]
        assert max(sizes) <= 1.25 * min(sizes)
    with pytest.raises(SearchError, match="two anchors"):
        choose_anchors(trained, per_stratum=1)
    with pytest.raises(SearchError, match="two at least"):
        audit(None, None, trained, CONFIG, seeds=(0,))


def test_constant_answer_has_the_loss_of_the_class_shares():
    losses = constant_losses(np.array([0, 0, 0, 1]), np.array([0, 1]))
    np.testing.assert_allclose(losses, [-np.log(0.75), -np.log(0.25)], atol=1e-6)


def test_finish_tunes_the_learning_rate_and_compares_points(planted):
    model, data, space, trained = planted
    ranks = [[[0] * 3 for _ in range(4)] for _ in range(2)]
    ranks[0][2][2], ranks[1][1][2] = 1, 1
    right, wrong = (
        Architecture("lora", tuple(map(tuple, rows)), 1.0, 0.0, 5e-2, 100) for rows in ranks
    )  # fmt: skip
    test = planted_split(200, 7)
    given = copy.deepcopy(model.state_dict())
    points = [
        retrain(model, data, test, space.sites, a, QUICK, seeds=(0, 1), learning_rates=(1e-4, 5e-2))
        for a in (right, wrong)
    ]
    for name, value in model.state_dict().items():
        assert torch.equal(value, given[name])
    assert points[0].architecture.learning_rate == 5e-2
    assert points[0].tuned[5e-2] < points[0].tuned[1e-4]
    assert points[0].test_correct.shape == points[0].test_losses.shape == (2, 200)
    assert points[0].test_correct.mean() > 0.8 > 0.65 > points[1].test_correct.mean()
    logits, labels = predict(points[0].best.model, test)
    accuracy = float((logits.argmax(-1) == labels).float().mean())
    assert any(accuracy == pytest.approx(float(row.mean())) for row in points[0].test_correct)
    (comparison,) = compare(points)
    assert comparison.architecture == points[1].architecture and comparison.against == points[0].architecture
    assert comparison.adjusted < 0.01 and comparison.loss.value > 0 > comparison.accuracy.value


def test_points_to_retrain_are_spread_over_sizes():
    def score(loss, parameters):
        return MemberScore(Architecture.uniform(1, 2, steps=parameters), np.zeros(1), loss, parameters, None, True)

    front = [score(0.9, 10), score(0.8, 12), score(0.5, 1000), score(0.52, 900), score(0.7, 100)]
    assert [a.steps for a in diverse_points(front, 3)] == [10, 100, 1000]
    assert len(diverse_points(front, 9)) == 5


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "ln_tuning", "vera", "none"])
def test_any_method_is_trained_alone(method, model_and_sites):
    from test_supernet import split_of

    model, sites = model_and_sites("bert")
    data = SearchData(split_of("bert", 20, 1), split_of("bert", 20, 2))
    config = SupernetConfig(max_steps=4, eval_steps=2)
    architecture = Architecture.uniform(2, 2, method, steps=4, learning_rate=1e-2)
    first, again = (train_alone(model, data, sites, architecture, config, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.validation_losses, again.validation_losses)
    logits, labels = predict(first.model, data.validation)
    np.testing.assert_allclose(
        torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy(), first.validation_losses, atol=1e-6
    )
    assert first.validation_loss == pytest.approx(first.progress.evaluation["loss"], abs=1e-6)


def test_head_is_renewed_by_seed(model_and_sites):
    model, sites = model_and_sites("bert")
    before = model.classifier.weight.detach().clone()
    renew_head(model, sites.head, 1)
    first = model.classifier.weight.detach().clone()
    renew_head(model, sites.head, 2)
    assert not torch.allclose(first, before) and not torch.allclose(first, model.classifier.weight)
    assert float(first.std()) == pytest.approx(float(before.std()), rel=0.3)
    assert not bool(model.classifier.bias.any())


def test_loss_of_another_kind_is_refused_by_train_alone(model_and_sites):
    model, sites = model_and_sites("bert")
    with pytest.raises(SearchError, match="cross_entropy, not prototypical"):
        train_alone(model, None, sites, Architecture.uniform(1, 2, loss="prototypical"), CONFIG)
