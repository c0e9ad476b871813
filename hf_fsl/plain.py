"""Dataclasses as JSON and back, read by the types of their fields."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Self, TypeVar, get_args, get_origin, get_type_hints

from hf_fsl.files import write_text

T = TypeVar("T")


class Plain:
    """What a dataclass of plain values can do: be JSON, and be saved as it."""

    INDENT: ClassVar[int] = 2

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=self.INDENT, ensure_ascii=False) + "\n"  # type: ignore[call-overload]

    def save(self, path: str | Path) -> Path:
        """Writes it to a temporary name and renames it. Returns the path."""
        return write_text(path, self.to_json())

    @classmethod
    def from_json(cls, text: str) -> Self:
        return from_plain(cls, json.loads(text))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What :meth:`save` wrote."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


def from_plain(kind: type[T], values: Any) -> T:
    """What ``dataclasses.asdict`` and JSON made of a ``kind``, as it was: dataclasses inside, and tuples, too.

    Raises:
        TypeError: a field is missing or unknown.
    """
    read: T = _read(kind, values)
    return read


def _read(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: _read(hints.get(name), item) for name, item in value.items()})
    origin, inner = get_origin(kind), [part for part in get_args(kind) if part is not NoneType]
    if origin is list:
        return [_read(inner[0], item) for item in value]
    if origin is tuple:
        return tuple(value)
    if origin is dict:
        return {name: _read(inner[1], item) for name, item in value.items()}
    # X | None; anything else is what JSON has already made of it.
    return _read(inner[0], value) if len(inner) == 1 else value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
