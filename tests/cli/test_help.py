"""Help is text that argparse formats: a stray % in it ends in a traceback."""

from __future__ import annotations

import argparse

import pytest

from hf_fsl.cli.main import as_spelled, main

COMMANDS = ["demo", "run", "validate", "env", "predict", "evaluate", "card", "push", "search", "hub"]


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS), ["hub", "serve"], ["hub", "seed"]])
def test_help_is_printed(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    assert " ".join(["usage: hf-fsl", *words]) in capsys.readouterr().out


def test_every_command_is_asked(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = [
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ") and line[4] != " "
    ]
    assert [name for name in listed if name != "COMMAND"] == COMMANDS


def test_a_recipes_fields_are_listed_with_defaults_and_docs_before_anything_is_launched(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "fine_tune", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "--training.per_device_train_batch_size" in shown and "--data.path required" in shown
    assert "--data.on_empty error What to do with an example whose text, or one of the two, is empty." in shown


def test_run_says_which_recipes_there_are(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run"])
    assert ended.value.code == 2 and "RECIPE is one of few_shot, fine_tune" in capsys.readouterr().err


def test_options_and_fields_are_spelled_with_hyphens_or_underscores(capsys):
    shown = []
    for options in (
        ["--accelerate-config", "cpu", "--dry-run", "--training.learning-rate", "0.5", "--output-dir=there"],
        ["--accelerate_config", "cpu", "--dry_run", "--training.learning_rate", "0.5", "--output_dir=there"],
    ):
        assert main(["run", "fine_tune", "--config", "supersense", *options]) == 0
        shown.append(capsys.readouterr().out.replace("-", "_"))
    assert shown[0] == shown[1]
    assert main(["run", "fine_tune", "--config", "supersense", "--dry-run", "--training.learning-rate", "fast"]) == 2
    assert "training.learning_rate: expected" in capsys.readouterr().err


def test_what_follows_two_hyphens_is_left_as_it_is():
    assert as_spelled(["--a_b", "x_y", "--c.d_e=1", "--", "--a_b"], parser()) == [
        "--a-b",
        "x_y",
        "--c.d_e=1",
        "--",
        "--a_b",
    ]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("--a-b")
    return made
