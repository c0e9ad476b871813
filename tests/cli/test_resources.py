"""Configs by name, and paths that tell nothing of the machine they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_fsl.core.errors import UserError
from hf_fsl.core.paths import find_config, portable, recipes_folder


def test_configs_are_found_by_path_and_by_name(tmp_path):
    there = recipes_folder() / "configs" / "fine_tune" / "digits.smoke.yaml"
    assert find_config("digits.smoke") == find_config(str(there)) == there
    with pytest.raises(UserError, match=r"no config 'nothing'.*fine_tune/digits.yaml"):
        find_config("nothing")


def test_a_name_that_two_recipes_have_is_one_of_the_recipe_that_runs():
    for recipe in ("fine_tune", "zero_shot_nli"):
        assert find_config("supersense", recipe) == recipes_folder() / "configs" / recipe / "supersense.yaml"
    with pytest.raises(UserError, match=r"Several recipes.*fine_tune/supersense.yaml.*zero_shot_nli/supersense.yaml"):
        find_config("supersense")


def test_published_paths_say_nothing_of_the_machine():
    assert portable(str(recipes_folder() / "fine_tune.py")) == "recipes/fine_tune.py"
    assert portable(str(Path.cwd() / "outputs" / "run")) == "outputs/run"
    assert portable("/home/somebody/secret/run") == "run"
    assert portable("outputs/run") == "outputs/run" and portable("--training.max_steps") == "--training.max_steps"


@pytest.mark.parametrize("name", ["/no/such/config.yaml", "/no/such/config", "", "..", "*", "[", "dig*"])
def test_a_name_is_no_pattern(name):
    for recipe in (None, "fine_tune"):
        with pytest.raises(UserError, match="There is no config"):
            find_config(name, recipe)
