"""``hf-fsl run``, ``validate`` and ``env``."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from hf_fsl.config import RECIPES
from hf_fsl.config.command_line import describe_fields
from hf_fsl.config.loading import ConfigError, load_config, read_yaml
from hf_fsl.core import environment
from hf_fsl.core.errors import UserError
from hf_fsl.core.files import require_writable
from hf_fsl.core.paths import find_config, recipes_folder
from hf_fsl.core.processes import supervised


def add_commands(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        add_help=False,
        help="run a recipe through accelerate launch",
        description="Runs a recipe: the same as `accelerate launch recipes/RECIPE.py --config FILE …`. "
        "Further --section.field value arguments override the config.",
        epilog="hf-fsl run RECIPE --help lists the fields of a recipe.",
    )
    run.add_argument("recipe", choices=sorted(RECIPES), nargs="?", metavar="RECIPE", help=", ".join(sorted(RECIPES)))
    run.add_argument("-h", "--help", action="store_true", help="this message; with RECIPE its fields and defaults")
    run.add_argument("--config", help="a YAML file, or the name of a config that comes with hf_fsl")
    run.add_argument(
        "--accelerate-config",
        metavar="NAME|FILE",
        help="an Accelerate config: a file, or one of recipes/accelerate_configs (cpu, single_gpu, ddp, …)",
    )
    run.add_argument("--dry-run", action="store_true", help="print the command and stop")
    run.set_defaults(run=_run, parser=run, takes_overrides=True)

    validate = commands.add_parser("validate", help="check config files without running or loading anything")
    validate.add_argument("files", nargs="+", metavar="FILE")
    validate.set_defaults(run=_validate)

    env = commands.add_parser("env", help="print versions and hardware, for bug reports")
    env.set_defaults(run=_env)


def launch_command(recipe: str, config: str | None, accelerate_config: str | None, overrides: list[str]) -> list[str]:
    """The command that ``hf-fsl run`` stands for: that of ``accelerate launch``, through our launcher.

    Raises:
        UserError: there is no such config.
    """
    command = [sys.executable, "-m", "hf_fsl.cli.launcher"]
    if accelerate_config is not None:
        presets = recipes_folder() / "accelerate_configs"
        found = [path for path in (presets / f"{accelerate_config}.yaml", Path(accelerate_config)) if path.is_file()]
        if not found:
            known = ", ".join(sorted(path.stem for path in presets.glob("*.yaml")))
            raise UserError(f"--accelerate-config: there is no {accelerate_config}. Give a file, or one of {known}.")
        command += ["--config_file", str(found[0])]
    command.append(str(recipes_folder() / f"{recipe}.py"))
    if config is not None:
        command += ["--config", str(find_config(config, recipe))]
    return command + overrides


def _run(options: argparse.Namespace) -> int:
    if options.help:
        options.parser.print_help()
        if options.recipe is not None:
            print("\n" + describe_fields(RECIPES[options.recipe]))
        options.parser.exit()
    if options.recipe is None:
        options.parser.error(f"RECIPE is one of {', '.join(sorted(RECIPES))}")
    command = launch_command(options.recipe, options.config, options.accelerate_config, options.rest)
    path = Path(command[command.index("--config") + 1]) if options.config else None
    # What is wrong with a config is said here, before torch is loaded and processes are started.
    config = load_config(RECIPES[options.recipe], path, options.rest)
    print(shlex.join([sys.executable, "-m", "accelerate.commands.launch", *command[3:]]), flush=True)
    if options.dry_run:
        return 0
    require_writable("output_dir", config.output_dir)
    return supervised(command)


def _validate(options: argparse.Namespace) -> int:
    code = 0
    for file in options.files:
        try:
            path = find_config(file)
            recipe = read_yaml(path, problems=[]).get("recipe")
            if not isinstance(recipe, str) or recipe not in RECIPES:
                raise ConfigError(str(path), [f"recipe: one of {', '.join(sorted(RECIPES))}, got {recipe!r}"])
            load_config(RECIPES[recipe], path)
            print(f"{path}: valid")
        except UserError as error:
            code = max(code, error.exit_code)
            print(error, file=sys.stderr)
    return code


def _env(options: argparse.Namespace) -> int:
    for package, version in environment.versions().items():
        print(f"{package:<16} {version}")
    print(f"{'hardware':<16} {environment.hardware()}")
    return 0
