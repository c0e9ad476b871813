"""``hf-fsl``: the parser of all sub-commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

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
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, rest = parser.parse_known_args(as_spelled(given, parser))
    if getattr(options, "takes_inputs", False) and all(word == "-" or not word.startswith("-") for word in rest):
        # argparse is done with the inputs where the first option stands: those behind it are left over.
        options.inputs, rest = [*options.inputs, *rest], []
    if rest and not getattr(options, "takes_overrides", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    return int(options.run(options))


def as_spelled(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Arguments with each option as a parser, or one of its sub-commands, spells it: hyphens or underscores."""
    options = {name.replace("_", "-"): name for name in _options(parser)}
    spelled: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return [*spelled, *arguments[position:]]
        name, equals, value = argument.partition("=")
        known = options.get(name.replace("_", "-")) if name.startswith("--") else None
        spelled.append(argument if known is None else f"{known}{equals}{value}")
    return spelled


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:  # argparse has no public list of them
        yield from (name for name in action.option_strings if name.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _options(command)


if __name__ == "__main__":
    raise SystemExit(main())
