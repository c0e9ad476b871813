"""The command line that every recipe shares: ``--config FILE`` and ``--section.field value``."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import itertools
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast, get_type_hints

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
        fields = "Fields (--section.field value; lists and mappings as YAML):"
        print(usage or "", fields, "", describe_fields(kind), sep="\n")
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


def describe_fields(kind: Any) -> str:
    """The fields of a recipe's config by section: dotted name, default, and what it is, for ``--help``."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    sections = [(kind, ""), *_sections(kind, "")]
    return "\n\n".join(text for section, prefix in sections if (text := _describe_section(section, prefix, width)))


def _sections(kind: Any, prefix: str) -> Iterator[tuple[Any, str]]:
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        section = section_of(hints[field.name])
        if section is not None:
            yield section, f"{prefix}{field.name}."
            yield from _sections(section, f"{prefix}{field.name}.")


def _describe_section(kind: Any, prefix: str, width: int) -> str:
    hints, docs = get_type_hints(kind), field_docs(kind)
    lines = []
    for field in dataclasses.fields(kind):
        if section_of(hints[field.name]) is not None:
            continue
        default: Any = "required"
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else default
        lines.append(f"  --{prefix + field.name:<44} {shown}")
        lines += textwrap.wrap(docs.get(field.name, ""), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if not lines:
        return ""
    heading = f"{prefix.rstrip('.')}: " if prefix else ""
    about = (inspect.getdoc(kind) or "").partition("\n")[0]
    return "\n".join([*textwrap.wrap(heading + about, width), *lines])


def field_docs(kind: type[Any]) -> dict[str, str]:
    """Field -> the docstring below it in the class, or in one that it derives from; white space folded."""
    docs: dict[str, str] = {}
    for base in (base for base in reversed(kind.__mro__) if dataclasses.is_dataclass(base)):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cast(type[Any], base)))).body
        assert isinstance(definition, ast.ClassDef)
        for statement, below in itertools.pairwise(definition.body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                match below:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        docs[statement.target.id] = " ".join(text.split())
    return docs
