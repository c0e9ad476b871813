"""What the few-shot recipe's configuration refuses before anything is loaded."""

from __future__ import annotations

import pytest

from hf_fsl.config import ConfigError, FewShotRecipeConfig, load_config

MINIMAL = ["--data.path", "u/d", "--data.text_column", "text", "--model.model_name_or_path", "u/m"]


@pytest.mark.parametrize("adapt", ["always", "auto"])
def test_meta_training_and_adapting_go_not_together(adapt):
    """Its ``adapter/`` would name the original backbone, on which it makes another model."""
    with pytest.raises(ConfigError, match="classifier.adapt: never with meta_training"):
        load_config(
            FewShotRecipeConfig, None, [*MINIMAL, "--meta_training", "true", "--classifier.adapt", adapt]
        )  # fmt: skip
    assert load_config(FewShotRecipeConfig, None, [*MINIMAL, "--meta_training", "true"]).meta_training


@pytest.mark.parametrize("template", ["{:>1999999999}", "{!r}", "{0}", "{} and {}", "{{}}"])
def test_templates_are_checked_like_those_of_a_call(template):
    with pytest.raises(ConfigError, match="templates: each has one place"):
        load_config(FewShotRecipeConfig, None, [*MINIMAL, "--classifier.templates", f"[{template!r}]"])
