"""The command line that every recipe shares: ``--config FILE`` and ``--section.field value``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_type_hints

from hf_fsl.config.loading import ConfigError, load_config, section_of
from hf_fsl.core.exits import run_plainly
from hf_fsl.core.files import require_writable
from hf_fsl.core.processes import end_with_parent

T = TypeVar("T")


def config_from_command_line(kind: type[T], usage: str | None = None, arguments: Sequence[str] | None = None) -> T:
    """Reads a recipe's config from ``sys.argv``; prints what is wrong and exits with 2, or the fields for ``--help``.

    Args:
        kind: the recipe's config class.
        usage: the recipe's docstring, shown by ``--help``.
        arguments: instead of ``sys.argv[1:]``.
    """
    rest = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in rest or "-h" in rest:
        print(f"{usage or ''}\nFields (--section.field value; lists and mappings as YAML):\n" + describe_fields(kind))
        raise SystemExit(0)
    path = None
    for position, flag in enumerate(rest):
        if flag == "--config" and position + 1 < len(rest):
            path = rest[position + 1]
            del rest[position : position + 2]
            break
        if flag.startswith("--config="):
            path = rest.pop(position).partition("=")[2]
            break
    try:
        return load_config(kind, path, rest)
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def run_recipe(main: Callable[[T], None], kind: type[T], usage: str | None) -> None:
    """What stands under ``if __name__ == "__main__"`` of a recipe: reads the config, runs, shows errors plainly."""
    end_with_parent()

    def run() -> int:
        config: Any = config_from_command_line(kind, usage)
        require_writable("output_dir", config.output_dir)
        main(config)
        return 0

    code = run_plainly(run, "error")
    if code:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        # Other processes of the launch may wait for this one in a collective call: no clean-up, no waiting.
        os._exit(code)


def describe_fields(kind: Any, prefix: str = "") -> str:
    """One line a field: its dotted name and its default."""
    lines = []
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        section = section_of(hints[field.name])
        if section is not None:
            lines.append(describe_fields(section, f"{prefix}{field.name}."))
            continue
        default: Any = "required"
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        lines.append(f"  --{prefix}{field.name:<{max(1, 42 - len(prefix))}} {default}")
    return "\n".join(lines)
