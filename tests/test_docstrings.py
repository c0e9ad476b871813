"""What the docstrings of the public names say of arguments and errors is true."""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hf_fsl
from hf_fsl.core.errors import UserError

SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Attributes|Example)(::|:)$")


def public_callables() -> Iterator[tuple[str, Callable[..., Any], str]]:
    """Name, what is called, and the docstring that speaks of its arguments, of all that hf_fsl exports."""
    for name in sorted(set(hf_fsl.__all__) - {"__version__"}):
        value = getattr(hf_fsl, name)
        if not inspect.isclass(value):
            yield name, value, inspect.getdoc(value) or ""
            continue
        if "__init__" in vars(value) and not hasattr(value, "__dataclass_fields__"):
            yield name, value.__init__, inspect.getdoc(value) or ""
        for method, member in vars(value).items():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function) and not method.startswith("_"):
                yield f"{name}.{method}", function, inspect.getdoc(function) or ""


def section(doc: str, title: str) -> dict[str, str]:
    """Entries of a section: what stands before the colon -> the text. Empty where there is no such section."""
    lines, inside, found = doc.splitlines(), False, []
    for line in lines:
        heading = SECTION.match(line)
        if heading or (inside and line and not line.startswith(" ")):
            inside = bool(heading) and heading[1] == title
        elif inside:
            found.append(line)
    entries: dict[str, str] = {}
    for line in textwrap.dedent("\n".join(found)).splitlines():
        if line and not line.startswith(" ") and ":" in line:
            names, _, text = line.partition(":")
            entries[names] = text
    return entries


CALLABLES = list(public_callables())


@pytest.mark.parametrize(("name", "function", "doc"), CALLABLES, ids=[name for name, *_ in CALLABLES])
def test_arguments_are_those_that_there_are_in_their_order(name, function, doc):
    assert doc, "no docstring"
    described = [each.strip(" `*") for names in section(doc, "Args") for each in names.split(",")]
    signature = inspect.signature(inspect.unwrap(function)).parameters
    known = [each for each in signature if each not in ("self", "cls")]
    if not described:
        return
    open_ended = any(each.kind is each.VAR_KEYWORD for each in signature.values())
    assert open_ended or not set(described) - set(known), set(described) - set(known)
    missing = {each for each in known if signature[each].kind not in (2, 4)} - set(described)
    assert not missing, f"{missing} of {known}"
    ordered = [each for each in described if each in known]
    assert ordered == sorted(ordered, key=known.index)


@pytest.mark.parametrize(("name", "function", "doc"), CALLABLES, ids=[name for name, *_ in CALLABLES])
def test_errors_are_classes_that_there_are(name, function, doc):
    module = importlib.import_module(inspect.unwrap(function).__module__)
    package = importlib.import_module(str(module.__package__))
    arguments = inspect.signature(inspect.unwrap(function)).parameters
    for error in (each.strip() for names in section(doc, "Raises") for each in names.split(",")):
        kind = (
            getattr(module, error, None)
            or getattr(builtins, error, None)
            or getattr(package, error, None)
            or errors().get(error)
        )
        assert error in arguments or (inspect.isclass(kind) and issubclass(kind, BaseException)), error


def errors() -> dict[str, type[Exception]]:
    """Every error of hf_fsl that is loaded, by its name."""
    found, rest = {}, [UserError]
    while rest:
        kind = rest.pop()
        found[kind.__name__] = kind
        rest += kind.__subclasses__()
    return found
