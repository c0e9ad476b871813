"""YAML plus ``--section.field value`` overrides -> a frozen config, or one error that lists everything wrong."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from hf_fsl.core.errors import UserError
from hf_fsl.core.renamed import RENAMED_ESTIMATORS

T = TypeVar("T")
_INVALID: Any = object()
_RENAMED_FIELDS = {
    "data.drop_unlabelled": "drop_unlabeled",
    "zero_shot.label_descriptions": "label_texts",
    "classifier.prior": "use_label_texts",
}
"""Field -> what its last part is called now."""
_RENAMED_CHOICES = {
    "adapter.method": {"none": "full"},
    "methods": {"none": "head"},
    "adaptation.loss": {"supcon": "supervised_contrastive"},
    "classifier.head": RENAMED_ESTIMATORS,
    "episodes.methods": RENAMED_ESTIMATORS,
    "episodes.reference": RENAMED_ESTIMATORS,
}
"""Field -> old name of a choice -> what it is called now."""


class ConfigError(UserError, ValueError):
    """A configuration that cannot be used; ``problems`` lists all that is wrong with it."""

    exit_code = 2

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source, self.problems = source, list(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  - {problem}" for problem in problems))


def load_config(kind: type[T], path: str | Path | None = None, overrides: Sequence[str] = ()) -> T:
    """Reads ``kind`` from a YAML file and command-line overrides.

    Args:
        kind: a frozen dataclass, its sections dataclasses themselves.
        path: YAML file; without one the overrides must give every field that has no default.
        overrides: ``["--training.learning_rate", "1e-4", "--hub.push_to_hub=true"]``; values are read as YAML.

    Raises:
        ConfigError: unknown keys, wrong types, wrong choices, impossible combinations: all of them at once.
    """
    problems: list[str] = []
    values = read_yaml(path, problems) if path is not None else {}
    for dotted, text in _split_overrides(overrides, problems):
        _set(values, _field_path(kind, dotted), text, problems)
    return build_config(kind, values, str(path) if path is not None else "command line", problems)


def build_config(kind: type[T], values: Mapping[str, Any], source: str, problems: Sequence[str] = ()) -> T:
    """``kind`` out of plain values, as strictly as out of a file.

    Args:
        source: named in the error.
        problems: found before, to be listed with the others.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    found = list(problems)
    config: T = _build(kind, values, "", found)
    if found:
        raise ConfigError(source, found)
    return config


def read_yaml(path: str | Path, problems: list[str] | None = None) -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        problems: keys that are given twice are added to it; None: they are an error.

    Raises:
        ConfigError: there is no mapping.
    """
    try:
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8"))
        node = loader.get_single_node()
        twice = list(_given_twice(node, "", set()))  # before the mappings are made, which puts << in its place
        values = loader.construct_document(node) if node is not None else None
    except FileNotFoundError:
        raise ConfigError(str(path), ["there is no such file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [f"not YAML: {error}"]) from None
    except (ValueError, RecursionError) as error:  # of dates and numbers that there are not, and of too many brackets
        raise ConfigError(str(path), [f"a value cannot be read: {error}"]) from None
    if not isinstance(values, dict):
        raise ConfigError(str(path), [f"expected sections with fields, found {type(values).__name__}"])
    if twice and problems is None:
        raise ConfigError(str(path), twice)
    if problems is not None:
        problems += twice
    return values


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain values, as it would stand in YAML."""
    return dataclasses.asdict(config)


def _given_twice(node: Any, prefix: str, seen: set[int]) -> Iterator[str]:
    """Of a YAML mapping and those inside it, the keys of which all but the last would be lost without a word."""
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))  # an alias leads to the same node
    if not isinstance(node, yaml.MappingNode):
        for child in node.value:
            yield from _given_twice(child, prefix, seen)
        return
    lines: dict[tuple[str, str], int] = {}
    for key, child in node.value:
        line = key.start_mark.line + 1
        name = _join(prefix, key.value) if isinstance(key.value, str) else prefix
        if (key.tag, str(key.value)) in lines:
            yield f"{name}: given twice, in lines {lines[key.tag, str(key.value)]} and {line}; keep one of them"
        lines.setdefault((key.tag, str(key.value)), line)
        yield from _given_twice(child, name, seen)


class _FromCommandLine(str):
    """Text still to be read as YAML by its field's type."""


def _split_overrides(arguments: Sequence[str], problems: list[str]) -> Iterator[tuple[str, str]]:
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            problems.append(f"{flag!r}: expected --section.field value")
        elif "=" in flag:
            name, _, value = flag[2:].partition("=")
            yield name, value
        elif not rest or re.match(r"--[a-z_-]+(\.|$)", rest[0]):
            problems.append(f"{flag}: has no value; write {flag} value")
        else:
            yield flag[2:], rest.pop(0)


def _field_path(kind: Any, dotted: str) -> list[str]:
    """The parts of an override's name, those that are fields with underscores; keys of mappings stay as they are."""
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        if kind is None:
            break
        parts[depth] = part.replace("-", "_")
        kind = section_of(_hints(kind).get(parts[depth]))
    return parts


def _set(values: dict[str, Any], keys: list[str], text: str, problems: list[str]) -> None:
    for depth, key in enumerate(keys[:-1]):
        section = values.setdefault(key, {})
        if not isinstance(section, dict):
            problems.append(f"--{'.'.join(keys)}: {'.'.join(keys[: depth + 1])} holds no fields")
            return
        values = section
    values[keys[-1]] = _FromCommandLine(text)


def _build(kind: Any, values: Any, prefix: str, problems: list[str]) -> Any:
    """The dataclass ``kind`` out of ``values``, or _INVALID; what is wrong is appended to ``problems``."""
    if not isinstance(values, Mapping):
        problems.append(f"{prefix or 'file'}: expected fields, got {values!r}")
        return _INVALID
    hints = _hints(kind)
    known: dict[str, Any] = {}
    for name, value in values.items():
        full = _join(prefix, name)
        if name not in hints:
            close = difflib.get_close_matches(str(name), hints, n=1)
            guess = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(hints))}"
            guess = f"it is now called {_RENAMED_FIELDS[full]}" if full in _RENAMED_FIELDS else guess
            problems.append(f"{full}: unknown field; {guess}")
            continue
        section = section_of(hints[name])
        if section is None:
            known[name] = _leaf(hints[name], value, full, problems)
        elif section is not hints[name] and value in (None, "null"):
            known[name] = None
        else:
            known[name] = _build(section, value, full, problems)
    for field in dataclasses.fields(kind):
        if _required(field) and field.name not in values:
            known[field.name] = _INVALID
            section = section_of(hints[field.name])
            if section is not None:
                _build(section, {}, _join(prefix, field.name), problems)
            else:
                problems.append(f"{_join(prefix, field.name)}: required, but not given")
    # A field that could not be read falls back to its default, so that one pass still finds what else is wrong.
    usable = {name: value for name, value in known.items() if value is not _INVALID}
    if any(_required(field) and field.name not in usable for field in dataclasses.fields(kind)):
        return _INVALID
    config = kind(**usable)
    problems.extend(_join(prefix, problem) for problem in config.problems())
    return config


def section_of(hint: Any) -> Any:
    """The dataclass of a field that is a section, or an optional one; None for other fields."""
    kinds = [hint, *get_args(hint)]
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)


def _leaf(kind: Any, value: Any, name: str, problems: list[str]) -> Any:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        if isinstance(value, _FromCommandLine):
            read = parser.parse_args([f"--value={value}"]).value
        else:
            read = parser.parse_object({"value": value}).value
    except (ArgumentError, ValueError, RecursionError):
        problems.append(f"{name}: expected {_describe(kind)}, got {value!r}{_renamed(name, value)}")
        return _INVALID
    if not _nulls_allowed(kind, read):
        problems.append(f"{name}: expected {_describe(kind)}, got null; leave it out for the default")
        return _INVALID
    if not _finite(read):
        problems.append(f"{name}: expected finite numbers, got {value if isinstance(value, str) else read}")
        return _INVALID
    return read


def _renamed(name: str, value: Any) -> str:
    """What an old name of a choice is called now, as the end of a message."""
    values = value if isinstance(value, list) else [value]
    told = (
        f", {old} is now called {choices[old]}"
        for field, choices in _RENAMED_CHOICES.items()
        if f".{name}".endswith(f".{field}")
        for old in values
        if isinstance(old, str) and old in choices
    )
    return "".join(told)


def _nulls_allowed(kind: Any, value: Any) -> bool:
    """Whether each null in a value is where its type has one; the parser lets it through everywhere."""
    if kind is Any:
        return True
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value is None:
        return type(None) in options
    if isinstance(value, Mapping):
        parts = [arguments for one in options if get_origin(one) is dict and (arguments := get_args(one))]
        return not parts or any(all(_nulls_allowed(of, each) for each in value.values()) for _, of in parts)
    if isinstance(value, list):
        parts = [arguments for one in options if get_origin(one) is list and (arguments := get_args(one))]
        return not parts or any(all(_nulls_allowed(of, each) for each in value) for (of,) in parts)
    return True


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _describe(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    text = text.replace("typing.", "").replace("NoneType", "null").replace("None", "null")
    return re.sub(r"Literal\[(.*?)\]", lambda match: "one of " + match[1].replace("'", ""), text)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _join(prefix: str, name: object) -> str:
    return f"{prefix}.{name}" if prefix else str(name)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
