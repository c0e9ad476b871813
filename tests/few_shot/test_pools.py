"""What may be support, what may be query, and what is neither."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from hf_fsl.config import ConfigError, DataConfig, FewShotRecipeConfig, load_config
from hf_fsl.data import DataError, load_splits
from hf_fsl.few_shot.episodes import EpisodeError
from hf_fsl.few_shot.evaluation import draw_episodes
from hf_fsl.few_shot.pools import fitting_and_test, load_pools

ROWS = {
    "train": [(f"{name} number {n}", name) for name in ("cat", "dog", "fish") for n in range(6)],
    "test": [(f"another {name} {n}", name) for name in ("cat", "dog") for n in range(5)]
    + [("same text", "cat"), ("same text", "dog")],
}


@pytest.fixture
def config(tmp_path):
    for split, rows in ROWS.items():
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    (tmp_path / "base.yaml").write_text(
        f"data: {{path: {tmp_path}, text_column: text, validation_split: null}}\nmodel: {{model_name_or_path: none}}\n"
    )

    def build(*overrides: str) -> FewShotRecipeConfig:
        return load_config(FewShotRecipeConfig, tmp_path / "base.yaml", list(overrides))

    return build


def test_supports_come_from_train_and_queries_from_test(config):
    pools = load_pools(config("--episodes.classes", '["dog", "cat"]'))
    assert pools.names == ["dog", "cat"] and not pools.same
    assert all("number" in text for text in pools.support.inputs)
    assert len(pools.query) == 12 and set(pools.query.labels) == {0, 1}
    assert pools.base_names == ["fish"] and len(pools.base) == 6  # nothing is set aside
    assert pools.splits.record.splits["train"].class_counts == {"cat": 6, "dog": 6, "fish": 6}
    assert set(pools.splits.record.splits) == {"train", "test"} and len(pools.splits.train) == 18
    assert all(
        pools.names[label] in text for text, label in zip(pools.support.inputs, pools.support.labels, strict=True)
    )
    # One text under two classes is one thing in each, not an error.
    assert (
        len({one for one, text in zip(pools.query.ids, pools.query.inputs, strict=True) if text == "same text"}) == 2
    )


def test_all_labels_are_supports_unless_fewer_are_asked_for(config, tmp_path):
    names = ("--episodes.classes", '["dog", "cat"]')
    settings = config(*names)
    support, _ = fitting_and_test(load_pools(settings), settings)
    assert np.bincount(support.labels).tolist() == [6, 6]
    limited = load_pools(config(*names, "--data.max_train_samples", "9"))
    assert len(limited.splits.train) == 9 and len(limited.support) + len(limited.base) == 9
    # A validation split of the data's own stays out.
    rows = [("text", "label"), *((f"a {name} to compare by", name) for name in ("cat", "dog", "fish"))]
    with (tmp_path / "validation.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    own = load_pools(config(*names, "--data.validation_split", "validation"))
    assert len(own.support) == 12 and "validation" in own.splits.record.splits


def test_episodes_that_cannot_be_had_are_refused_by_the_labels_alone(config):
    names = ("--episodes.classes", '["dog", "cat"]', "--episodes.episodes", "5")
    drawn = draw_episodes(
        config(*names, "--episodes.k_shot", "[1, 6]", "--episodes.n_query", "5"), load_pools(config())
    )
    assert drawn[6].balanced.support.shape == (5, 2, 6) and drawn[1].unbalanced is None
    settings = config(*names, "--episodes.k_shot", "[1, 7]", "--episodes.n_query", "2")
    with pytest.raises(EpisodeError, match=r"'dog' has 6 for supports, .*'cat' has 6 for supports, .*needs 7 \+ 2"):
        draw_episodes(settings, load_pools(settings))
    settings = config(*names, "--episodes.k_shot", "[1]", "--episodes.n_query", "7")
    with pytest.raises(EpisodeError, match="n_query=7.*6 for queries, needs 1 \\+ 7.*Lower k_shot or n_query"):
        draw_episodes(settings, load_pools(settings))


def test_the_published_support_set_is_not_in_its_test(config):
    settings = config("--episodes.support", "test", "--episodes.k_shot", "[1, 2]")
    pools = load_pools(settings)
    assert pools.same and pools.names == ["cat", "dog"]
    support, test = fitting_and_test(pools, settings)
    assert np.bincount(support.labels).tolist() == [2, 2] and len(test) == 8
    assert not set(support.ids) & set(test.ids)
    again, _ = fitting_and_test(pools, settings)
    assert again.inputs == support.inputs
    other, _ = fitting_and_test(pools, config("--episodes.support", "test", "--episodes.seed", "1"))
    assert other.inputs != support.inputs


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--episodes.classes", '["cat", "bird"]'], "no example of bird"),
        (["--episodes.classes", '["cat", "fish"]'], "no example of fish"),
        (["--episodes.classes", '["cat", "dog"]', "--meta_training", "true"], "has 1 such"),
        (["--episodes.classes", '["cat", "dog"]', "--classifier.shots", "7"], "'cat' has 6, 'dog' has 6"),
    ],
)
def test_what_the_data_does_not_have_is_named(config, overrides, message):
    settings = config(*overrides)
    with pytest.raises(DataError, match=message):
        fitting_and_test(load_pools(settings), settings)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["--episodes.k_shot", "[0]"], "numbers of 1 or more"),
        (["--episodes.n_way", "1"], "at least 2"),
        (["--episodes.reference", "ridge", "--episodes.methods", '["lda"]'], "one of methods"),
        (["--classifier.adapt", "auto", "--classifier.folds", "0"], "held out"),
        (["--adapter.method", "head", "--meta_training", "true"], "adapts no backbone"),
        (["--episodes.query_name", "other"], "item_column"),
        (["--classifier.coverage", "0"], "above 0"),
    ],
)
def test_a_config_that_cannot_work_is_refused_before_anything_is_loaded(config, override, message):
    with pytest.raises(ConfigError, match=message):
        config(*override)


def test_few_labels_and_small_evaluations_take_none_away(tmp_path):
    with (tmp_path / "all.csv").open("w", newline="") as file:
        rows = [(f"{name} number {n}", name) for name in ("cat", "dog") for n in range(30)]
        csv.writer(file).writerows([("text", "label"), *rows])
    data = {"path": str(tmp_path / "all.csv"), "text_column": "text", "max_eval_samples": 4}
    config = DataConfig(**data, test_fraction=0.2, validation_fraction=0.1)
    splits = load_splits(config, all_labels=True)
    assert len(splits.train) == 60 - 12 and len(splits.validation) == 0 and len(splits.test) == 4
    assert not any("validation" in note for note in splits.record.notes)
    assert len(load_splits(config).train) == 60 - 12 - 6
