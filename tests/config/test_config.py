"""Strictness of the configuration: everything wrong is said at once, without torch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from hf_fsl.config import (
    RECIPES,
    AdapterSearchConfig,
    ConfigError,
    ContrastiveConfig,
    FewShotRecipeConfig,
    FineTuneConfig,
    HubConfig,
    ZeroShotNLIConfig,
    config_from_command_line,
    load_config,
)
from hf_fsl.config.loading import build_config, read_yaml, section_of

ROOT = Path(__file__).parents[2]
MINIMAL = ["--data.path", "u/d", "--data.text_column", "text", "--model.model_name_or_path", "u/m"]


def problems(tmp_path, text, overrides=()):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(FineTuneConfig, path, overrides)
    return caught.value.problems


def test_every_problem_is_listed_at_once(tmp_path):
    text = """
data: {path: u/d, text_colum: x, label_column: 3}
model: {model_name_or_path: m}
training: {learning_rate: 2e-5, num_train_epochs: true, seeds: [1, 2.5], save_steps: 0}
adapter: {method: lorax, rank_pattern: {query: 0}}
"""
    found = problems(tmp_path, text, ["--hub.push_to_hub=true", "--x.y", "3"])
    expected = [
        "data.text_colum: unknown field; did you mean text_column?",
        "data.label_column: expected list[str] | str, got 3",
        "training.num_train_epochs: expected float, got True",
        "training.seeds: expected list[int], got [1, 2.5]",
        "training.save_steps: at least 1, got 0",
        "adapter.method: expected one of full, head, lora, rslora, dora, ia3, ln_tuning, vera, got 'lorax'",
        "adapter.rank_pattern.query: at least 1, got 0",
        "hub.hub_model_id: needed with push_to_hub",
        "x: unknown field",
    ]
    for line in expected:
        assert any(problem.startswith(line) for problem in found), (line, found)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("training.per_device_train_batch_size", "8.5"),
        ("training.per_device_train_batch_size", "[8]"),
        ("training.learning_rate", "fast"),
        ("training.gradient_checkpointing", "1"),
        ("training.log_with", "[mlflow]"),
        ("adapter.target_modules", "3"),
        ("data.on_overlap", "warn"),
    ],
)
def test_wrong_types_and_choices_are_refused(tmp_path, field, value):
    section, _, name = field.partition(".")
    text = f"data: {{path: u/d, text_column: text}}\nmodel: {{model_name_or_path: m}}\n{section}2: {{}}\n"
    text = text.replace(f"{section}2: {{}}", f"{section}: {{{name}: {value}}}") if section != "data" else (
        f"data: {{path: u/d, text_column: text, {name}: {value}}}\nmodel: {{model_name_or_path: m}}\n"
    )  # fmt: skip
    assert any(problem.startswith(f"{field}") and "expected" in problem for problem in problems(tmp_path, text))


def test_numbers_that_are_none_and_weights_below_zero_are_refused(tmp_path):
    text = """
data: {path: u/d, text_column: text}
model: {model_name_or_path: m}
adapter: {lora_alpha: .nan, alpha_pattern: {query: -.inf}}
training: {learning_rate: .nan, max_grad_norm: .inf, class_weights: [1, -0.5]}
"""
    assert problems(tmp_path, text, ["--training.weight_decay", ".nan"]) == [
        "adapter.lora_alpha: expected finite numbers, got nan",
        "adapter.alpha_pattern: expected finite numbers, got {'query': -inf}",
        "training.learning_rate: expected finite numbers, got nan",
        "training.max_grad_norm: expected finite numbers, got inf",
        "training.weight_decay: expected finite numbers, got .nan",
        "training.class_weights: each at least 0 and one above, or balanced; got [1.0, -0.5]",
    ]


def test_keys_given_twice_are_named_with_their_lines_beside_the_other_problems(tmp_path):
    text = """data: {path: u/d, text_column: text}
model: {model_name_or_path: m}
training:
  learning_rate: 1e-3
  max_steps: 0
  learning_rate: 2e-5
model: {model_name_or_path: n}
"""
    found = problems(tmp_path, text)
    assert found == [
        "training.learning_rate: given twice, in lines 4 and 6; keep one of them",
        "model: given twice, in lines 2 and 7; keep one of them",
        "training.max_steps: at least 1, got 0",
    ]
    with pytest.raises(ConfigError, match="given twice"):
        read_yaml(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("a: &a {b: 1}\nc: {<<: *a, b: 2}\nd: [*a, {b: 3}]\n")
    assert read_yaml(tmp_path / "config.yaml")["c"] == {"b": 2}


def test_several_labels_are_asked_for_in_one_way(tmp_path):
    text = "data: {path: u/d, text_column: text, label_column: [a, b], label_separator: ';'}\n"
    found = problems(tmp_path, text + "model: {model_name_or_path: m}\n")
    assert [problem.split(";")[0] for problem in found] == [
        "data.label_column: several columns are for problem_type multi_label_classification",
        "data.label_separator: is for problem_type multi_label_classification",
        "data.label_separator: splits the texts of one label_column, got ['a', 'b']",
    ]
    found = problems(tmp_path, "data: {path: u/d, text_column: text, label_column: [a], problem_type: "
                     "multi_label_classification}\nmodel: {model_name_or_path: m}\n")  # fmt: skip
    assert found == ["data.label_column: one name, or a list of two or more, each once; got ['a']"]


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [("label_column", "[a, b]", ["a", "b"]), ("label_column", "kind", "kind"), ("label_separator", ",", ",")],
)
def test_fields_of_several_labels_on_the_command_line(field, text, value):
    multi = ["--data.problem_type", "multi_label_classification"]
    config = load_config(FineTuneConfig, None, [*MINIMAL, *multi, f"--data.{field}", text])
    assert getattr(config.data, field) == value


def test_text_that_is_no_regular_expression_is_refused(tmp_path):
    text = """
data: {path: u/d, text_column: text}
model: {model_name_or_path: m}
adapter: {target_modules: "(query", rank_pattern: {"*a": 4}}
"""
    found = problems(tmp_path, text)
    assert found[0].startswith("adapter.target_modules: not a regular expression (missing ), unterminated")
    assert found[1].startswith("adapter.rank_pattern.*a: not a regular expression (nothing to repeat")


def test_the_old_name_of_a_choice_is_refused_with_the_new_one(tmp_path):
    text = "data: {path: u/d, text_column: text}\nmodel: {model_name_or_path: m}\n"
    (found,) = problems(tmp_path, text, ["--adapter.method", "none"])
    assert found.startswith("adapter.method: expected one of full, ")
    assert found.endswith("got 'none', none is now called full")
    path = tmp_path / "few_shot.yaml"
    path.write_text(f"{text}adaptation: {{loss: supcon}}\n")
    with pytest.raises(ConfigError, match="got 'supcon', supcon is now called supervised_contrastive"):
        load_config(FewShotRecipeConfig, path)
    path.write_text(f"{text}classifier: {{head: prior, prior: false}}\nepisodes: {{methods: [ridge, prior]}}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(FewShotRecipeConfig, path)
    methods, head, field = sorted(caught.value.problems, key=len, reverse=True)
    assert methods.endswith("got ['ridge', 'prior'], prior is now called anchored")
    assert head.endswith("got 'prior', prior is now called anchored")
    assert field == "classifier.prior: unknown field; it is now called use_label_texts"
    (found,) = problems(tmp_path, text, ["--data.drop_unlabelled", "true"])
    assert found == "data.drop_unlabelled: unknown field; it is now called drop_unlabeled"
    path.write_text(f"{text}space: {{methods: [lora, none]}}\n")
    with pytest.raises(ConfigError, match=r"got \['lora', 'none'\], none is now called head"):
        load_config(AdapterSearchConfig, path)


@pytest.mark.parametrize("value", ["auto", False])
def test_label_texts_are_used_as_far_as_they_help_or_not(tmp_path, value):
    path = tmp_path / "few_shot.yaml"
    path.write_text("data: {path: u/d, text_column: text}\nmodel: {model_name_or_path: m}\n")
    override = ["--classifier.use_label_texts", str(value).lower()]
    assert load_config(FewShotRecipeConfig, path, override).classifier.use_label_texts == value
    with pytest.raises(ConfigError, match="use_label_texts: expected one of auto, False, got True"):
        build_config(FewShotRecipeConfig, {**read_yaml(path), "classifier": {"use_label_texts": True}}, "x")


def test_the_old_name_of_a_field_is_refused_with_the_new_one():
    overrides = ["--data.path", "u/d", "--data.text_column", "text", "--model.model_name_or_path", "m"]
    with pytest.raises(ConfigError) as caught:
        load_config(ZeroShotNLIConfig, None, [*overrides, "--zero_shot.label_descriptions", "{a: b}"])
    assert caught.value.problems == ["zero_shot.label_descriptions: unknown field; it is now called label_texts"]


def test_missing_required_fields_are_named():
    with pytest.raises(ConfigError) as caught:
        load_config(FineTuneConfig, None, ["--data.text_column", "text"])
    assert set(caught.value.problems) == {
        "data.path: required, but not given",
        "model.model_name_or_path: required, but not given",
    }


def test_overrides_win_and_are_typed(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {path: u/d, text_column: text}\nmodel: {model_name_or_path: m}\ntraining: {seeds: [1]}\n")
    config = load_config(
        FineTuneConfig,
        path,
        ["--training.learning_rate", "2e-5", "--training.seeds=[3, 4]", "--training.weight_decay", "0",
         "--model.revision", "5", "--adapter.rank_pattern", "{query: 4}",
         "--training.early_stopping_patience", "null"],
    )  # fmt: skip
    assert config.training.learning_rate == 2e-5
    assert config.training.seeds == [3, 4]
    assert config.model.revision == "5"
    assert config.adapter.rank_pattern == {"query": 4}
    assert config.training.early_stopping_patience is None


@pytest.mark.parametrize("overrides", [["--training.learning_rate"], ["training.x", "1"], ["--output_dir.x", "1"]])
def test_malformed_overrides_are_refused(overrides):
    with pytest.raises(ConfigError):
        load_config(FineTuneConfig, None, [*MINIMAL, *overrides])


def test_a_file_that_is_missing_or_not_a_mapping_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        read_yaml(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected sections"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not YAML"):
        read_yaml(tmp_path / "broken.yaml")


def test_linear_probe_of_a_text_pair_is_refused_before_anything_runs():
    options = ["--data.text_pair_column=b", "--evaluation.baselines=[linear_probe]"]
    with pytest.raises(ConfigError, match="linear_probe is for single-label tasks"):
        load_config(FineTuneConfig, None, [*MINIMAL, *options])


def test_metrics_left_out_are_those_of_the_kind_of_task():
    multi = [*MINIMAL, "--data.problem_type=multi_label_classification"]
    assert load_config(FineTuneConfig, None, multi).evaluation.metrics_of(True) == ["accuracy", "macro_f1", "ece"]
    assert "mcc" in load_config(FineTuneConfig, None, MINIMAL).evaluation.metrics_of(False)
    with pytest.raises(ConfigError, match="evaluation.metrics: mcc is not defined for multi_label"):
        load_config(FineTuneConfig, None, [*multi, "--evaluation.metrics=[accuracy, mcc]"])
    with pytest.raises(ConfigError, match="metric_for_best_model: one of .*ece.* or loss, got 'mcc'"):
        load_config(FineTuneConfig, None, [*multi, "--training.metric_for_best_model=mcc"])


def test_recipe_command_line_prints_problems_and_exits_2(capsys):
    with pytest.raises(SystemExit) as caught:
        config_from_command_line(FineTuneConfig, None, [*MINIMAL, "--training.lr", "1"])
    assert caught.value.code == 2
    assert "training.lr: unknown field" in capsys.readouterr().err


def test_help_lists_every_field(capsys):
    with pytest.raises(SystemExit):
        config_from_command_line(FineTuneConfig, "usage", ["--help"])
    out = capsys.readouterr().out
    assert "--training.learning_rate" in out and "--hub.create_pr" in out


CONFIGS = sorted((ROOT / "recipes" / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "recipes" / "configs")))
def test_every_config_in_the_project_is_valid(path):
    recipe = read_yaml(path)["recipe"]
    assert recipe == path.relative_to(ROOT / "recipes" / "configs").parts[0]
    load_config(RECIPES[recipe], path)
    assert f"--config recipes/configs/{path.relative_to(ROOT / 'recipes' / 'configs')}" in path.read_text()


def test_importing_and_validating_loads_no_torch_and_is_quick():
    code = (
        "import sys, time; t = time.process_time(); import hf_fsl; seconds = time.process_time() - t\n"
        "from hf_fsl.cli.main import main\n"
        f"code = main(['validate', {str(CONFIGS[0])!r}])\n"
        "assert code == 0 and 'torch' not in sys.modules and 'transformers' not in sys.modules, sorted(sys.modules)\n"
        "assert seconds < 0.5, seconds\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_optional_section_can_be_left_out_given_or_null(tmp_path):
    from hf_fsl.config import ModelConfig, ZeroShotNLIConfig

    given = ["--data.path", "a/b", "--data.text_column", "text", "--model.model_name_or_path", "c/d"]
    assert load_config(ZeroShotNLIConfig, None, given).bi_encoder is None
    named = [*given, "--bi_encoder.model_name_or_path", "e/f"]
    assert load_config(ZeroShotNLIConfig, None, named).bi_encoder == ModelConfig(model_name_or_path="e/f")
    assert load_config(ZeroShotNLIConfig, None, [*given, "--bi_encoder", "null"]).bi_encoder is None
    with pytest.raises(ConfigError, match="bi_encoder.model_name_or_path: required"):
        load_config(ZeroShotNLIConfig, None, [*given, "--bi_encoder.revision", "main"])


@pytest.mark.parametrize("recipe", ["fine_tune", "search_adapters"])
def test_families_without_a_classification_class_are_refused_by_name(recipe, tmp_path):
    given = ["--data.path", "u/d", "--data.image_column", "image", "--model.model_name_or_path"]
    message = "no classification class for dinov3.*The recipe few_shot trains an adapter on it"
    with pytest.raises(ConfigError, match=message):
        load_config(RECIPES[recipe], None, [*given, "facebook/dinov3-vits16-pretrain-lvd1689m"])
    (tmp_path / "config.json").write_text('{"model_type": "dinov3_convnext"}')
    with pytest.raises(ConfigError, match=message):
        load_config(RECIPES[recipe], None, [*given, str(tmp_path)])
    load_config(RECIPES[recipe], None, [*given, "facebook/dinov2-with-registers-small"])
    load_config(RECIPES["few_shot"], None, [*given, "facebook/dinov3-vits16-pretrain-lvd1689m"])


def _leaves(kind, prefix=""):
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        section = section_of(hints[field.name])
        if section is not None:
            yield from _leaves(section, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", type(None) in get_args(hints[field.name])


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_null_is_for_the_fields_that_say_so(recipe):
    kind = RECIPES[recipe]
    leaves = dict(_leaves(kind))
    values = {}
    for name in leaves:
        *sections, last = name.split(".")
        section = values
        for one in sections:
            section = section.setdefault(one, {})
        section[last] = None
    with pytest.raises(ConfigError) as caught:
        build_config(kind, values, "all null")
    refused = {problem.partition(":")[0] for problem in caught.value.problems if "got null" in problem}
    assert refused == {name for name, optional in leaves.items() if not optional}


def test_null_inside_lists_and_mappings_is_refused(tmp_path):
    text = """
data: {path: u/d, text_column: text, data_files: {train: null}}
model: {model_name_or_path: m}
training: {seeds: [0, null], class_weights: [1.0, null]}
adapter: {rank_pattern: {query: null}, target_modules: null}
"""
    found = problems(tmp_path, text, ["--training.num_train_epochs", "null"])
    assert [problem.partition(":")[0] for problem in found] == [
        "data.data_files", "training.seeds", "training.class_weights", "training.num_train_epochs",
        "adapter.rank_pattern",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        (["--adapter.method", "lora"], 1e-3),
        (["--adapter.method", "head"], 1e-3),
        (["--adapter.method", "full"], 5e-5),
        (["--adapter.method", "full", "--model.from_config", "true"], 1e-3),
        (["--adapter.method", "full", "--training.learning_rate", "2e-5"], 2e-5),
        (["--adapter.peft_config", "some/adapter", "--adapter.method", "full"], 1e-3),
    ],
)
def test_the_learning_rate_is_that_of_the_method_unless_given(settings, rate):
    config = load_config(FineTuneConfig, None, [*MINIMAL, *settings])
    assert config.resolved().training.learning_rate == rate
    assert config.resolved().resolved() == config.resolved()


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ([], 1e-3),
        (["--model.image.method", "full"], 5e-5),
        (["--model.image.method", "full", "--model.image.from_config", "true"], 1e-3),
    ],
)
def test_the_learning_rate_of_towers_is_that_of_the_one_that_needs_the_lowest(settings, rate):
    names = ["--data.path", "u/d", "--data.captions", '["{caption}"]']
    for tower in ("image", "text"):
        names += [f"--model.{tower}.model_name_or_path", "u/m"]
    config = load_config(ContrastiveConfig, None, [*names, "--training.metric_for_best_model", "loss", *settings])
    assert config.resolved().training.learning_rate == rate


@pytest.mark.parametrize(
    "text",
    ["data:\n  path: 2024-13-45\n", "data:\n  path: " + "[" * 20_000 + "]" * 20_000, "a: " + "9" * 5_000,
     "{" * 20_000, "a: 2024-01-01T99:00:00Z"],
)  # fmt: skip
def test_values_that_cannot_be_read_are_told(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="a value cannot be read|not YAML"):
        load_config(FineTuneConfig, path, MINIMAL)


@pytest.mark.parametrize("value", ["2024-13-45", "9" * 5_000, "[" * 5_000])
def test_overrides_that_cannot_be_read_are_told(value):
    with pytest.raises(ConfigError, match="training.num_train_epochs: expected"):
        load_config(FineTuneConfig, None, [*MINIMAL, "--training.num_train_epochs", value])


def test_a_metric_that_is_a_script_is_refused_unless_trusted():
    script = [*MINIMAL, "--evaluation.metrics=[accuracy, ./mine]"]
    with pytest.raises(ConfigError, match="evaluation.metrics: ./mine would be run as scripts"):
        load_config(FineTuneConfig, None, script)
    assert load_config(FineTuneConfig, None, [*script, "--evaluation.trust_remote_code=true"]).evaluation.metrics


def test_a_repository_to_push_to_names_its_user():
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    for name in ["me/name", "m-e/a.b_c", "a/b_", "me/" + "a" * 96]:
        validate_repo_id(name)
        assert not list(HubConfig(hub_model_id=name).problems())
    for name in ["me/na--me", "me/-x", "me/x.", "a/b/c", "me/na me", "me/", "me/x.git", "me/x..y", "me/" + "a" * 97]:
        with pytest.raises(HFValidationError):
            validate_repo_id(name)
        assert list(HubConfig(hub_model_id=name).problems())
    (problem,) = HubConfig(push_to_hub=True, hub_model_id="name").problems()  # valid, of nobody
    assert problem.startswith("hub_model_id: user/name") and "'name'" in problem
