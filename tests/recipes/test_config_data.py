"""Configs of the bundled data sets get their splits: what only a run would show, without the run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hf_fsl.config import RECIPES, load_config, read_yaml
from hf_fsl.data import load_splits
from hf_fsl.few_shot.pools import load_pools
from hf_fsl.search.few_shot import few_shot_splits
from hf_fsl.zero_shot.evaluation import tuning_and_test

FOLDER = Path(__file__).parents[2] / "recipes"
CONFIGS = [
    path.relative_to(FOLDER / "configs").as_posix()
    for path in sorted((FOLDER / "configs").rglob("*.yaml"))
    if str(read_yaml(path)["data"]["path"]).startswith("hf-fsl/") and path.parent.name != "train_contrastive"
]


def load(recipe: str, config: Any) -> list[Any]:
    """The parts of the data that the recipe trains, tunes or tests on."""
    if recipe == "few_shot":
        pools = load_pools(config)
        return [pools.support, pools.query]
    if recipe.startswith("zero_shot"):
        return [part.inputs for part in tuning_and_test(load_splits(config.data, zero_shot=True), config.zero_shot)]
    splits = load_splits(config.data)
    if recipe == "search_adapters":
        splits = few_shot_splits(splits, config.few_shot)
    return [splits.train, splits.validation, splits.test]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bundled_config_finds_its_examples(name: str):
    recipe = name.split("/")[0]
    config = load_config(RECIPES[recipe], FOLDER / "configs" / name)
    folder = FOLDER / "data" / config.data.path.removeprefix("hf-fsl/")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(folder)))
    assert all(len(part) > 0 for part in load(recipe, config))
