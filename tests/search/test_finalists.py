"""The best is trained again by fine_tune's own code: resumable, compared, and honest where labels are random."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from hf_fsl.config import AdapterSearchConfig, DataConfig, EvaluationConfig, ModelConfig
from hf_fsl.config.search import FinishConfig, ShotsConfig, StudyConfig
from hf_fsl.config.search_space import SearchSpaceConfig
from hf_fsl.core.measurement import Measurement
from hf_fsl.metrics import MetricError
from hf_fsl.search import finalists
from hf_fsl.search.errors import SearchError
from hf_fsl.search.few_shot import few_shot_splits
from hf_fsl.search.finalists import Finish, choose, complete
from hf_fsl.search.report import MemberRow
from hf_fsl.search.run import fine_tune_yaml, search
from hf_fsl.search.space import SearchSpace
from hf_fsl.search.study import Evaluation, Infeasible
from hf_fsl.search.trial import AdapterTrial
from hf_fsl.training import make_accelerator
from tests.helpers.few_texts import text_splits


class Run:
    """A search on a few texts, as the recipe makes it."""

    def __init__(self, backbone, folder, random_labels):
        self.config = AdapterSearchConfig(
            data=DataConfig(path="tiny", text_column="text"),
            model=ModelConfig(model_name_or_path=str(backbone)),
            few_shot=ShotsConfig(shots=8, validation_shots=3, per_device_train_batch_size=16),
            space=SearchSpaceConfig(
                ranks=[0, 2, 4],
                scaling=[2.0],
                dropout=[0.0],
                learning_rate=[4e-3],
                steps=[24],
                methods=["lora", "ia3"],
            ),
            search=StudyConfig(trials=4, startup=2, rungs=[0.5]),
            finish=FinishConfig(members=2, seeds=[0, 1], learning_rate_factors=[1.0], baseline_rank=4),
            evaluation=EvaluationConfig(metrics=["accuracy"], bootstrap_resamples=100, baselines=[]),
            output_dir=str(folder),
        )
        splits = text_splits(train=8, test=30, random_labels=random_labels)
        self.splits = few_shot_splits(splits, self.config.few_shot)
        self.accelerator = make_accelerator()
        self.trial = AdapterTrial(
            self.config.model, self.splits, self.config.few_shot, self.config.search, self.accelerator
        )
        space = SearchSpace(self.config.space, self.trial.sites)
        self.report = search(self.config, space, self.trial, self.splits, lambda line: None)
        self.said = []
        self.finish = Finish(self.config, self.trial, self.splits, self.accelerator, folder, self.said.append)
        self.members = self.finish.run(self.report.front, self.report.hypervolume["reference"])
        self.chosen = complete(self.report, self.members, self.splits, self.trial.sites, self.config)


@pytest.fixture(scope="module")
def learnable(text_backbone, tmp_path_factory):
    return Run(text_backbone, tmp_path_factory.mktemp("learnable"), random_labels=False)


@pytest.mark.slow
def test_random_labels_are_called_noise(text_backbone, tmp_path):
    report = Run(text_backbone, tmp_path, random_labels=True).report
    assert report.matters is False
    assert "nothing was learnt" in report.verdict or "did not matter more than noise" in report.verdict


def test_labels_that_can_be_learnt_are_not(learnable):
    assert "nothing was learnt" not in learnable.report.verdict
    names = [row.name for row in learnable.report.members]
    assert names[-2:] == ["uniform-r4", "head-only"] and names[0] == "front-1"
    (chosen,) = [row for row in learnable.report.members if row.chosen]
    assert chosen.name == learnable.chosen.name == learnable.report.chosen
    assert len(learnable.report.comparisons) == len(names) * (len(names) - 1) // 2
    assert set(learnable.report.hypervolume["baselines"]) == {"uniform-r4", "head-only"}


def test_what_was_trained_is_not_trained_again(learnable, monkeypatch):
    monkeypatch.setattr(AdapterTrial, "__call__", lambda *_: pytest.fail("tuned again"))
    steps = []
    train_step = finalists.fine_tune_seed.__globals__["training_loop"]

    def counting(*arguments, **options):
        progress = train_step(*arguments, **options)
        steps.append(progress.wall_seconds)
        return progress

    monkeypatch.setitem(finalists.fine_tune_seed.__globals__, "training_loop", counting)
    again = learnable.finish.run(learnable.report.front, learnable.report.hypervolume["reference"])
    for first, second in zip(learnable.members, again, strict=True):
        assert first.validation("loss") == second.validation("loss")
        assert [o.record.wall_seconds for o in second.outcomes] == pytest.approx(
            [o.record.wall_seconds for o in first.outcomes], abs=0.3
        )
    published = learnable.finish.published(learnable.chosen)
    assert published.outcome.record.seed == learnable.chosen.best_seed("loss")


def test_the_config_that_is_written_out_is_that_of_the_member(learnable, tmp_path):
    from hf_fsl.config import FineTuneConfig, load_config

    path = tmp_path / "fine_tune.yaml"
    path.write_text(fine_tune_yaml(learnable.chosen))
    config, told = load_config(FineTuneConfig, path), learnable.chosen.config
    assert config.adapter == told.adapter and config.model == told.model and config.evaluation == told.evaluation
    assert config.training.learning_rate == told.training.learning_rate
    assert config.training.resume_from_checkpoint is None


def row(name, value, parameters, half=None):
    interval = None if half is None else (value - half, value + half)
    return MemberRow(
        name=name, architecture={}, description="", baseline=False, parameters=parameters, seeds=[0],
        validation=Measurement(value=value, ci95=interval), test={},
    )  # fmt: skip


def test_the_smallest_near_the_best_is_chosen():
    rows = [row("small", 1.05, 10, 0.2), row("middle", 1.02, 20, 0.2), row("best", 1.0, 30, 0.1)]
    assert choose(rows, "loss", "best")[0] == "best"
    name, because = choose(rows, "loss", "smallest")
    assert name == "small" and "10 parameters against 30" in because
    assert choose([row("small", 1.2, 10, 0.5), row("best", 1.0, 30, 0.1)], "loss", "smallest")[0] == "best"
    assert choose([row("small", 0.9, 10, 0.5), row("best", 0.93, 30, 0.1)], "accuracy", "smallest")[0] == "small"


@pytest.fixture
def finish(learnable, tmp_path, monkeypatch):
    """(seed, rate) that diverge -> a finish whose trainings are made up: the lower the rate, the lower the loss."""

    def start(diverging, about=None, untuned=(), slow=False):
        trained = []

        def tune(trial, architecture, context):
            if architecture.learning_rate in untuned:
                raise Infeasible({"max_latency": 1.0}) if slow else FloatingPointError("loss is nan")
            return Evaluation(values={"loss": architecture.learning_rate})

        def fine_tune(config, splits, accelerator, seed):
            rate = config.training.learning_rate
            trained.append((seed, rate))
            if (seed, rate) in diverging:
                raise diverging[seed, rate]
            outcome = SimpleNamespace(record=SimpleNamespace(validation={"loss": rate}, seed=seed))
            return SimpleNamespace(outcome=outcome, model=None)

        monkeypatch.setattr(AdapterTrial, "__call__", tune)
        monkeypatch.setattr(finalists, "fine_tune_seed", fine_tune)
        settings = dataclasses.replace(
            learnable.config, finish=FinishConfig(members=1, seeds=[0, 1], learning_rate_factors=[0.5, 1.0, 2.0])
        )
        said = []
        made = Finish(settings, learnable.trial, learnable.splits, learnable.accelerator, tmp_path, said.append, about)
        monkeypatch.setattr(made, "_baselines", lambda: [])
        return made, trained, said

    return start


NAN = MetricError("The logits of 3 of 90 examples are NaN, the first of example 0.")


@pytest.mark.parametrize("error", [FloatingPointError("loss is nan"), NAN])
def test_a_seed_that_diverges_falls_back_to_the_next_best_rate(error, finish, learnable):
    diverging = {(1, 2e-3): error}
    made, trained, said = finish(diverging)
    (member,) = made.run(learnable.report.front[:1], learnable.report.hypervolume["reference"])
    assert member.config.training.learning_rate == 4e-3 and not made.diverged
    assert trained == [(0, 2e-3), (1, 2e-3), (0, 4e-3), (1, 4e-3)]
    assert "a seed diverged at learning rate 0.002; the next best is taken" in said[0]
    made, trained, _ = finish(diverging)  # started again, it is not tried again
    made.run(learnable.report.front[:1], learnable.report.hypervolume["reference"])
    assert trained == [(0, 4e-3), (1, 4e-3)]


def test_what_diverges_at_every_rate_is_left_out_and_said(finish, learnable):
    error = FloatingPointError("loss is nan")
    made, *_ = finish({(0, rate): error for rate in (2e-3, 4e-3)}, untuned=[8e-3])
    with pytest.raises(SearchError, match="All of front-1 cannot be trained at any learning rate"):
        made.run(learnable.report.front[:1], learnable.report.hypervolume["reference"])
    assert made.diverged == {"front-1": "loss is nan"}
    made, *_ = finish({}, untuned=[2e-3, 4e-3, 8e-3], slow=True)
    made.known.clear()
    with pytest.raises(SearchError, match="cannot be trained at any"):
        made.run(learnable.report.front[:1], learnable.report.hypervolume["reference"])
    assert "slower than search.max_latency" in made.diverged["front-1"]
    made, *_ = finish({(0, 2e-3): MetricError("no such metric")})
    (made.folder / "tuning.json").unlink()
    made.known.clear()
    with pytest.raises(MetricError, match="no such metric"):
        made.run(learnable.report.front[:1], learnable.report.hypervolume["reference"])


def test_what_was_tuned_for_another_search_is_not_taken(finish, learnable):
    made, *_ = finish({}, about={"data set": "tiny"})
    made.run(learnable.report.front[:1], learnable.report.hypervolume["reference"])
    with pytest.raises(SearchError, match='What was tuned in .* differs in data set:\n.*"tiny" there, "other" here'):
        finish({}, about={"data set": "other"})
