"""A run by either strategy: a supernet's members are the search where its audit trusts them, else its start."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from search.few_texts import text_splits

from hf_fsl.config import AdapterSearchConfig, DataConfig, ModelConfig
from hf_fsl.config.search import ShotsConfig, StudyConfig
from hf_fsl.config.search_space import SearchSpaceConfig
from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.search import run as module
from hf_fsl.search.few_shot import few_shot_splits
from hf_fsl.search.report import AuditRow
from hf_fsl.search.run import search
from hf_fsl.search.space import SearchSpace
from hf_fsl.search.trial import AdapterTrial
from hf_fsl.training import make_accelerator


@pytest.fixture
def run(text_backbone, tmp_path, monkeypatch):
    """trusted -> the report of a search whose audit says so; the audit itself is tested in test_nas.py."""
    config = AdapterSearchConfig(
        data=DataConfig(path="tiny", text_column="text"),
        model=ModelConfig(model_name_or_path=str(text_backbone)),
        few_shot=ShotsConfig(shots=6, validation_shots=2, per_device_train_batch_size=8),
        space=SearchSpaceConfig(
            ranks=[0, 1, 4], scaling=[1.0, 2.0], dropout=[0.0, 0.1], learning_rate=[1e-2], steps=[3]
        ),
        strategy="supernet",
        supernet=SupernetConfig(
            max_steps=4,
            eval_steps=2,
            learning_rate=3e-3,
            per_device_train_batch_size=8,
            members=10,
            population=4,
            audit_sizes=1,
            audit_anchors=2,
        ),  # fmt: skip
        search=StudyConfig(trials=3, startup=2, rungs=[]),
        output_dir=str(tmp_path),
    )
    splits = few_shot_splits(text_splits(), config.few_shot)
    trial = AdapterTrial(config.model, splits, config.few_shot, config.search, make_accelerator())
    space = SearchSpace(config.space, trial.sites)

    def go(trusted=True, **changes):
        made = module.audit_row

        def said_so(audit):
            return dataclasses.replace(made(audit), supernet_trusted=trusted)

        monkeypatch.setattr(module, "audit_row", said_so)
        return search(dataclasses.replace(config, **changes), space, trial, splits, lambda line: None)

    return go


def test_a_trusted_supernet_is_the_search(run):
    report = run(trusted=True)
    assert report.strategy == "supernet" and len(report.trials) == 10
    assert isinstance(report.audit, AuditRow) and report.audit.anchors == 2
    assert report.verdict == report.audit.verdict and report.matters == report.audit.architecture_matters
    assert {row.architecture["learning_rate"] for row in report.trials} == {3e-3}
    for row in report.front:
        low, high = row.details["interval"]
        assert low < row.values["loss"] < high
    inside = sum(row.token_flops for row in report.trials)
    spent = report.hypervolume["curve"][0][0]
    assert report.token_flops > spent > 2 * inside > 0 and report.front  # most is training and audit
    assert report.seconds > sum(row.seconds for row in report.trials)
    before, curve = report.token_flops - inside, report.hypervolume["curve"]
    assert curve[0][0] == pytest.approx(before + report.trials[0].token_flops)


def test_a_supernet_that_is_not_trusted_is_where_the_study_starts(run):
    report = run(trusted=False)
    assert report.strategy == "general" and len(report.trials) == 3
    assert report.audit is not None and not report.audit.supernet_trusted
    assert report.token_flops > 2 * sum(row.token_flops for row in report.trials)  # the supernet was paid for too
    assert {(row.architecture["learning_rate"], row.architecture["steps"]) for row in report.trials} == {(1e-2, 3)}


def test_budgets_that_a_supernet_does_not_keep_are_refused():
    settings = {"data": DataConfig(path="tiny", text_column="text"), "model": ModelConfig(model_name_or_path="tiny")}
    search = StudyConfig(seconds=60.0, token_flops=1e9, max_latency=0.1)
    space = SearchSpaceConfig(methods=["lora"])
    problems = "\n".join(AdapterSearchConfig(**settings, space=space, strategy="supernet", search=search).problems())
    for name in ("seconds", "token_flops", "max_latency"):
        assert f"search.{name}" in problems
    assert not list(AdapterSearchConfig(**settings, space=space, search=search).problems())


def test_the_gradient_names_an_adapter_of_each_size_and_they_are_trained_alone(run):
    report = run(strategy="gradient")
    assert report.strategy == "gradient" and report.sampler == "one gradient pass" and report.audit is None
    sizes = sorted(row.parameters for row in report.trials)
    assert len(set(sizes)) == 3 and not any(row.stopped for row in report.trials)
    tried = sorted((row.architecture for row in report.trials), key=lambda each: sum(map(sum, each["ranks"])))
    for small, large in itertools.pairwise(tried):  # nested, and the larger with a scaling that is no larger
        pairs = zip(sum(small["ranks"], []), sum(large["ranks"], []), strict=True)
        assert all(low <= high for low, high in pairs) and small["scaling"] >= large["scaling"]
    assert report.token_flops > sum(row.token_flops for row in report.trials)  # the pass
    assert run(strategy="gradient").trials == report.trials  # done already: read, not run again


def test_a_gradient_needs_lora_in_the_space():
    config = AdapterSearchConfig(
        data=DataConfig(path="tiny", text_column="text"), model=ModelConfig(model_name_or_path="tiny"),
        space=SearchSpaceConfig(methods=["ia3", "none"]), strategy="gradient",
    )  # fmt: skip
    assert any("which is not among space.methods" in problem for problem in config.problems())
