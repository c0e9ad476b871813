"""Tokenizer options of the stock pipelines that change an answer: how long a text may be, and whether it is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from hf_fsl.core.errors import UserError

_TOKENIZER = ("truncation", "max_length", "padding")
CUTTING = (*_TOKENIZER, "tokenizer_kwargs")
"""The options; ``tokenizer_kwargs`` is a mapping of the others."""
_KNOWN: dict[str, dict[Any, bool]] = {
    "truncation": {None: True, True: True, "only_first": True, "longest_first": True, False: False,
                   "do_not_truncate": False},
    "padding": dict.fromkeys((None, True, "longest", "max_length", False, "do_not_pad"), True),
}  # fmt: skip


@dataclass(frozen=True)
class Cutting:
    """What becomes of long texts."""

    max_length: int | None = None
    """Tokens that the model reads at a time, special ones and the hypothesis included; None: as many as it takes."""
    cut: bool = True
    """Whether a longer text loses its end (never the label its words); False: it is an error."""


WHOLE = Cutting()
"""As many tokens as the model takes, then cut: what holds unless told otherwise."""


def read_cutting(options: Mapping[str, Any], error: type[UserError]) -> Cutting:
    """The options of a call or a pipeline. Padding never changes an answer: batches are padded as they need it.

    Raises:
        error: a value that the tokenizer would not take either, or an option of it that cannot be passed on.
    """
    tokenizing = options.get("tokenizer_kwargs") or {}
    if not isinstance(tokenizing, Mapping) or set(tokenizing) - set(_TOKENIZER):
        raise error(f"tokenizer_kwargs: a mapping of {', '.join(_TOKENIZER)}; got {tokenizing!r}.")
    tokenizing = {**tokenizing, **{name: options[name] for name in _TOKENIZER if name in options}}
    for name, known in _KNOWN.items():
        value = tokenizing.get(name)
        if not isinstance(value, (str, bool, type(None))) or value not in known:
            raise error(f"{name} is one of {', '.join(map(repr, known))}; got {value!r}.")
    size = tokenizing.get("max_length")
    if size is not None and (isinstance(size, bool) or not isinstance(size, Integral) or int(size) < 1):
        raise error(f"max_length: a whole number of tokens above 0, or None; got {size!r}.")
    return Cutting(None if size is None else int(size), _KNOWN["truncation"][tokenizing.get("truncation")])
