"""A run by either strategy, and which of them a space is searched by."""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest

from hf_fsl.config import AdapterSearchConfig, DataConfig, ModelConfig
from hf_fsl.config.search import ShotsConfig, StudyConfig
from hf_fsl.config.search_space import SearchSpaceConfig
from hf_fsl.search.few_shot import few_shot_splits
from hf_fsl.search.run import search
from hf_fsl.search.space import SearchSpace
from hf_fsl.search.trial import AdapterTrial
from hf_fsl.training import make_accelerator
from tests.helpers.few_texts import text_splits


@pytest.fixture
def run(text_backbone, tmp_path):
    """changes of the config -> the report of a search."""
    config = AdapterSearchConfig(
        data=DataConfig(path="tiny", text_column="text"),
        model=ModelConfig(model_name_or_path=str(text_backbone)),
        few_shot=ShotsConfig(shots=6, validation_shots=2, per_device_train_batch_size=8),
        space=SearchSpaceConfig(
            ranks=[0, 1, 4], scaling=[1.0, 2.0], dropout=[0.0, 0.1], learning_rate=[1e-2], steps=[3]
        ),
        search=StudyConfig(trials=3, startup=2, rungs=[]),
        output_dir=str(tmp_path),
    )
    splits = few_shot_splits(text_splits(), config.few_shot)
    trial = AdapterTrial(config.model, splits, config.few_shot, config.search, make_accelerator())
    space = SearchSpace(config.space, trial.sites)

    def go(**changes):
        return search(dataclasses.replace(config, **changes), space, trial, splits, lambda line: None)

    return go


def adapter_search(methods, **changes):
    return AdapterSearchConfig(
        data=DataConfig(path="tiny", text_column="text"), model=ModelConfig(model_name_or_path="tiny"),
        space=SearchSpaceConfig(methods=methods), **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("methods", "strategy", "path"),
    [
        (["lora"], None, "gradient"),
        (["lora", "head"], None, "gradient"),
        (["head"], None, "general"),
        (["lora", "dora"], None, "general"),
        (["lora"], "general", "general"),
        (["lora", "ia3"], "gradient", "gradient"),
    ],
)
def test_strategy_follows_from_the_methods_where_none_is_given(methods, strategy, path):
    config = adapter_search(methods, strategy=strategy)
    assert config.path == path and not list(config.problems())


@pytest.mark.parametrize(
    ("methods", "strategy", "problem"),
    [
        (["ia3", "head"], "gradient", "which is not among space.methods"),
        (["lora"], "supernet", "strategy: supernet is gone.*Use gradient, or general"),
        (["lora"], "genetic", "one of general, gradient, or null; got 'genetic'"),
    ],
)
def test_a_strategy_that_cannot_be_is_refused(methods, strategy, problem):
    (found,) = adapter_search(methods, strategy=strategy).problems()
    assert re.search(problem, found)


def test_the_gradient_names_an_adapter_of_each_size_and_they_are_trained_alone(run):
    report = run()
    assert report.strategy == "gradient" and report.sampler == "one gradient pass"
    sizes = sorted(row.parameters for row in report.trials)
    assert len(set(sizes)) == 3 and not any(row.stopped for row in report.trials)
    tried = sorted((row.architecture for row in report.trials), key=lambda each: sum(map(sum, each["ranks"])))
    for small, large in itertools.pairwise(tried):  # nested, and the larger with a scaling that is no larger
        pairs = zip(sum(small["ranks"], []), sum(large["ranks"], []), strict=True)
        assert all(low <= high for low, high in pairs) and small["scaling"] >= large["scaling"]
    assert report.token_flops > sum(row.token_flops for row in report.trials)  # the pass
    assert run().trials == report.trials  # done already: read, not run again
