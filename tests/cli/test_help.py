"""Help is text that argparse formats: a stray % in it ends in a traceback."""

from __future__ import annotations

import pytest

from hf_fsl.cli.main import main

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
