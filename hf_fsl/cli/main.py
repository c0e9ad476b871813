"""``hf-fsl``: the parser of all sub-commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hf_fsl import __version__
from hf_fsl.cli import demo, hub, launch, models, publishing, search
from hf_fsl.core.exits import run_plainly


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a sub-command. Returns the exit code: 0 done, 1 failed, 2 wrong usage or configuration."""
    return run_plainly(lambda: _run(arguments), "hf-fsl")


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="hf-fsl", description="Transfer, few-shot, one-shot and zero-shot learning with Hub models."
    )
    parser.add_argument("--version", action="version", version=f"hf_fsl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (demo, launch, models, publishing, search, hub):
        module.add_commands(commands)
    options, rest = parser.parse_known_args(arguments)
    if getattr(options, "takes_inputs", False) and all(word == "-" or not word.startswith("-") for word in rest):
        # argparse is done with the inputs where the first option stands: those behind it are left over.
        options.inputs, rest = [*options.inputs, *rest], []
    if rest and not getattr(options, "takes_overrides", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    return int(options.run(options))


if __name__ == "__main__":
    raise SystemExit(main())
