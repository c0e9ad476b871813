"""Dataclasses as JSON and back, read by the types of their fields."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Self, TypeVar, get_args, get_origin, get_type_hints

from hf_fsl.core.errors import UserError
from hf_fsl.core.files import write_text

T = TypeVar("T")
_JSON: dict[Any, Any] = {str: str, int: int, float: (int, float), bool: bool}
_SURROGATES = re.compile("[\ud800-\udfff]")
"""Halves of pairs, which a string can hold and UTF-8 cannot."""


class SerializationError(UserError, TypeError, ValueError):
    """A file, or what was read of it, that is not what was saved."""


class Serializable:
    """What a dataclass of plain values can do: be JSON, and be saved as it."""

    INDENT: ClassVar[int] = 2

    def to_json(self) -> str:
        text: str = json.dumps(dataclasses.asdict(self), indent=self.INDENT, ensure_ascii=False) + "\n"  # type: ignore[call-overload]
        return _SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

    def save(self, path: str | Path) -> Path:
        """Writes it to a temporary name and renames it. Returns the path."""
        return write_text(path, self.to_json())

    @classmethod
    def from_json(cls, text: str) -> Self:
        return from_plain(cls, json_object(text))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What :meth:`save` wrote.

        Raises:
            OSError: the file cannot be read.
            SerializationError: it is damaged.
        """
        with damage_told(path):
            return cls.from_json(Path(path).read_text(encoding="utf-8"))


@contextlib.contextmanager
def damage_told(path: str | Path) -> Iterator[None]:
    """Names the file in the error about what was read from it."""
    try:
        yield
    except (SerializationError, UnicodeDecodeError) as error:
        raise SerializationError(f"{path} is damaged: {error} Write it anew, or take another copy.") from error


def json_object(text: str) -> dict[str, Any]:
    """The object in a JSON text. Raises SerializationError where there is none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SerializationError(f"it is not JSON, or cut off ({error}).") from error
    if not isinstance(values, dict):
        raise SerializationError(f"it holds a {type(values).__name__}, not fields.")
    return values


def from_plain(kind: type[T], values: Any) -> T:
    """What ``dataclasses.asdict`` and JSON made of a ``kind``, as it was: dataclasses inside, and tuples, too.

    A class whose fields had other names before lists them in ``RENAMED``, old name -> new.

    Raises:
        SerializationError: a field is missing, unknown or of another type.
    """
    try:
        read: T = _read(kind, values)
    except (TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise SerializationError(f"it is no {kind.__name__}: {error}.") from error
    return read


def _read(kind: Any, value: Any) -> Any:
    if value is None:
        if kind in (None, Any, NoneType) or NoneType in get_args(kind):
            return None
        raise TypeError(f"expected {getattr(kind, '__name__', kind)}, found null")
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints, renamed = _hints(kind), getattr(kind, "RENAMED", {})
        fields = {renamed.get(name, name): item for name, item in value.items()}
        return kind(**{name: _read(hints.get(name), item) for name, item in fields.items()})
    origin, inner = get_origin(kind), [part for part in get_args(kind) if part is not NoneType]
    if origin is list:
        return [_read(inner[0], item) for item in value]
    if origin is tuple:
        return tuple(value)
    if origin is dict:
        return {name: _read(inner[1], item) for name, item in value.items()}
    if kind in _JSON and not isinstance(value, _JSON[kind]):
        raise TypeError(f"expected {kind.__name__}, found {value!r:.100}")
    # X | None; anything else is what JSON has already made of it.
    return _read(inner[0], value) if len(inner) == 1 else value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
