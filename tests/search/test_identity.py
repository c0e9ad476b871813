"""What a run says its study is about: the real thing, with real data and weights."""

from __future__ import annotations

import dataclasses

import pytest

from hf_fsl.config import AdapterSearchConfig, DataConfig, ModelConfig
from hf_fsl.config.search import ShotsConfig, StudyConfig
from hf_fsl.config.search_space import SearchSpaceConfig
from hf_fsl.search.errors import SearchError
from hf_fsl.search.few_shot import few_shot_splits
from hf_fsl.search.run import study_identity
from hf_fsl.search.space import SearchSpace
from hf_fsl.search.study.identity import differences, require_same
from hf_fsl.search.trial import AdapterTrial
from hf_fsl.training import make_accelerator
from tests.helpers.few_texts import text_splits


@pytest.fixture(scope="module")
def about(text_backbone):
    """changes of the config, texts, what else is done -> the identity."""
    base = AdapterSearchConfig(
        data=DataConfig(path="tiny", text_column="text"),
        model=ModelConfig(model_name_or_path=str(text_backbone), max_length=16),
        few_shot=ShotsConfig(shots=6, validation_shots=2),
    )

    def identity(splits=None, spoil=None, **changes):
        config = dataclasses.replace(base, **changes)
        drawn = few_shot_splits(splits or text_splits(), config.few_shot)
        trial = AdapterTrial(config.model, drawn, config.few_shot, config.search, make_accelerator())
        if spoil is not None:
            spoil(trial)
        return study_identity(config, SearchSpace(config.space, trial.sites), trial, drawn)

    return base, identity


def test_the_same_again_is_the_same_whatever_the_head(about):
    _, identity = about

    def other_head(trial):
        trial.model.classifier.weight.data.add_(1.0)

    assert not differences(identity(), identity(spoil=other_head))


def test_each_thing_that_workers_must_share_is_named(about):
    base, identity = about
    mine = identity()

    def other_weights(trial):
        next(trial.model.parameters()).data[0, 0] += 1e-3

    def two_processes(trial):
        trial.accelerator = type("Two", (), {"num_processes": 2})()

    def study(**changes):
        return {"search": StudyConfig(**changes)}

    others = [
        ("data set", "training examples", {"splits": text_splits(random_labels=True)}),
        ("data set", "path", {"data": dataclasses.replace(base.data, path="another")}),
        ("few_shot", "seed", {"few_shot": dataclasses.replace(base.few_shot, seed=1)}),
        ("backbone", "weights", {"spoil": other_weights}),
        ("backbone", "max_length", {"model": dataclasses.replace(base.model, max_length=8)}),
        ("backbone", "attn_implementation", {"model": dataclasses.replace(base.model, attn_implementation="eager")}),
        ("space", "ranks", {"space": SearchSpaceConfig(ranks=[0, 1])}),
        ("seed", "", study(seed=1)),
        ("max_latency", "", study(max_latency=1.0)),
        ("reduction_factor", "", study(reduction_factor=2.0)),
        ("startup", "", study(startup=3)),
        ("num_processes", "1 there, 2 here", {"spoil": two_processes}),
    ]
    for part, words, changes in others:
        found = differences(mine, identity(**changes))
        assert part in found and words in found[part], (part, found)
    assert not differences(mine, identity(**study(trials=99, seconds=5.0)))  # a budget may grow


def test_what_a_folder_keeps_of_another_search_is_refused_by_name(tmp_path):
    with pytest.raises(SearchError, match=r"The audit in .* differs in few_shot:\n  - few_shot: seed 0 there, 1 here"):
        require_same(
            "The audit", tmp_path, {"few_shot": {"seed": 0, "shots": 8}}, {"few_shot": {"seed": 1, "shots": 8}}
        )
