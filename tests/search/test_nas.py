"""The search over members, the audit and the finish, on tasks whose truth is known by construction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from planted import PlantedModel, planted_split

from hf_fsl.search.alone import predict, renew_head, train_alone
from hf_fsl.search.anchors import Anchors, choose_anchors
from hf_fsl.search.audit import DIVERGED, audit, conclude, constant_losses
from hf_fsl.search.data import SearchData
from hf_fsl.search.errors import SearchError
from hf_fsl.search.nas import MemberScore, front_of, objectives, search_members
from hf_fsl.search.space import Architecture, SearchSpace, find_sites
from hf_fsl.search.study.group import Group
from hf_fsl.search.supernet import SupernetConfig, train_supernet
from hf_fsl.search.supernet_search import search_by_supernet, supernet_latency
from hf_fsl.training.checkpoints import TrainingDiverged

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
    sizes = [score.parameters for score in found.front]
    assert sizes == sorted(sizes) and len(sizes) < 24
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


def test_a_lucky_member_is_not_on_the_front_and_a_clearly_better_one_is():
    rng = np.random.default_rng(0)
    losses = rng.exponential(1.0, 80)

    def scored(rank: int, shift: np.ndarray | float, parameters: int) -> MemberScore:
        own = losses + shift
        return MemberScore(Architecture.uniform(rank, 2), own, float(own.mean()), parameters, None, True)

    noise = rng.standard_normal(80) * 0.5
    lucky = noise - noise.mean() - 0.05  # better by 0.05, its standard error being 0.056
    small, family, other = scored(1, 0.0, 100), scored(2, -0.2, 200), scored(4, -0.2 + lucky, 250)
    clear, least = scored(8, -0.5 + noise * 0.1, 300), scored(0, 0.9, 50)
    unlucky = scored(16, -0.1, 400)
    scores = [small, family, other, clear, least, unlucky]
    known = [score.architecture for score in (small, family, unlucky)]
    assert front_of(scores, known) == [least, small, family, clear, unlucky]
    assert front_of(scores) == [least, small, family, other, clear]


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


def test_an_anchor_that_diverges_is_the_worst_of_its_size_not_the_end(planted, monkeypatch, tmp_path):
    model, data, _, trained = planted
    lost = choose_anchors(trained, 1, 3, 0).architectures[0]

    def train_or_diverge(model, data, sites, architecture, *rest, **options):
        if architecture == lost:
            raise TrainingDiverged("The loss is not finite.")
        return train_alone(model, data, sites, architecture, *rest, **options)

    short = dataclasses.replace(QUICK, max_steps=20)
    monkeypatch.setattr("hf_fsl.search.audit.train_alone", train_or_diverge)
    result = audit(model, data, trained, short, strata=1, per_stratum=3, folder=tmp_path)
    assert (result.alone_losses[0] == DIVERGED).all() and (result.alone_losses[1:] < DIVERGED).all()
    monkeypatch.setattr("hf_fsl.search.audit.train_alone", None)  # all is known now, the divergence too
    again = audit(model, data, trained, short, strata=1, per_stratum=3, folder=tmp_path)
    assert (again.alone_losses == result.alone_losses).all() and again.verdict == result.verdict


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
    np.testing.assert_allclose(losses, [-np.log(4 / 6), -np.log(2 / 6)])


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


def test_whole_path_goes_on_where_it_was(tmp_path, monkeypatch):
    model, data, space, _ = trained_on(config=dataclasses.replace(QUICK, max_steps=5))
    config = dataclasses.replace(QUICK, max_steps=40, members=25, population=10, audit_sizes=1, audit_anchors=2)
    said, about = [], {"data set": "tiny", "backbone": "planted"}
    first = search_by_supernet(model, data, space, config, folder=tmp_path, say=said.append, about=about)
    assert len(first.tried) == 25 and len(said) == 2 and said[1] == first.audit.verdict
    cost = first.trained.meter.to_dict()
    assert first.token_flops == cost["token_flops"] and first.seconds > sum(tried.seconds for tried in first.tried)
    total = sum(tried.token_flops for tried in first.tried) + cost["by_phase"]["audit"] + cost["by_phase"]["supernet"]
    reference = cost["token_flops"] - total  # the race's reference, and anchors that were looked for
    assert 0 <= reference < 0.2 * cost["token_flops"]
    monkeypatch.setattr("hf_fsl.search.supernet.training.train", None)
    monkeypatch.setattr("hf_fsl.search.alone.train", None)
    again = search_by_supernet(model, data, space, config, folder=tmp_path, about=about)
    assert again.seconds > 0.5 * first.seconds  # what the kept parts took is counted
    repeated = again.trained.meter.to_dict()
    for phase in ("supernet", "audit"):
        assert repeated["by_phase"][phase] == cost["by_phase"][phase] > 0
    # the first run had part of the prefix cache from choosing whether to reorder
    assert repeated["by_phase"]["members"] == pytest.approx(cost["by_phase"]["members"], rel=0.05)
    assert repeated["gradient_steps"] == cost["gradient_steps"]
    assert [t.architecture for t in again.tried] == [t.architecture for t in first.tried]
    assert [t.values for t in again.tried] == [t.values for t in first.tried]
    assert again.audit.verdict == first.audit.verdict
    other = dataclasses.replace(config, learning_rate=0.9)
    with pytest.raises(SearchError, match="supernet in .* differs in config:\n  - config: learning_rate .* 0.9 here"):
        search_by_supernet(model, data, space, other, folder=tmp_path, about=about)
    another = about | {"data set": "another"}
    with pytest.raises(SearchError, match='supernet in .* differs in data set:\n.*"tiny" there, "another" here'):
        search_by_supernet(model, data, space, config, folder=tmp_path, about=another)
    with pytest.raises(SearchError, match="audit in .* differs in data set"):
        audit(model, data, again.trained, config, strata=1, per_stratum=2, folder=tmp_path / "audit", about=another)


def test_supernet_of_three_objectives_measures_latency(planted):
    model, data, space, _ = planted
    config = dataclasses.replace(QUICK, max_steps=5, members=6, population=4, audit_sizes=0)
    found = search_by_supernet(model, data, space, config, latency=True)
    assert found.audit is None and all(tried.values["latency"] > 0 for tried in found.tried)
    known = {tried.architecture.key: tried.details["latency"] for tried in found.tried}
    same = search_by_supernet(model, data, space, config, latency=True, recorded=known)
    assert [tried.values for tried in same.tried] == [tried.values for tried in found.tried]
    recorded = {tried.architecture: tried.values["latency"] for tried in found.tried}
    again = search_by_supernet(model, data, space, config, latency=lambda a: recorded.get(a, 1.0))
    assert all(tried.values["latency"] in (1.0, recorded.get(tried.architecture)) for tried in again.tried)


def test_latency_is_what_the_main_process_measured_on_every_process(planted, monkeypatch):
    *_, trained = planted
    told = []

    class Follower(Group):
        size, is_main = 2, False

        def __init__(self):
            pass

        def share(self, value=None):
            told.append(value)
            return 0.125

    monkeypatch.setattr("hf_fsl.search.supernet_search.measure_latency", lambda *_: pytest.fail("measured for itself"))
    latency = supernet_latency(trained, Follower(), {})
    assert latency(trained.supernet.largest) == 0.125 and told == [0.0]
