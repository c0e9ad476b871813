"""What others wrote (labels, texts, names, answers of a server): as it may be sent to a terminal, and whole."""

from __future__ import annotations

import re

# Control characters move the cursor, rename the window or paste; separators and overrides of direction show a line
# other than it is; halves of surrogate pairs cannot be encoded. What emoji are joined with is none of these.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_LINES = re.compile(UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def printable(text: object, *, lines: bool = False) -> str:
    """A text with the characters that act on a terminal, or that it cannot be sent, as Python's escapes.

    Args:
        text: anything; ``str`` is taken of it.
        lines: whether it may have lines and tabs of its own, as an error's message does.
    """
    unsafe = _UNSAFE_IN_LINES if lines else UNSAFE
    return unsafe.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def check_text(text: str, what: str, error: type[Exception]) -> None:
    """Raises ``error`` for a text with half a character in it, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as broken:
        raise error(
            f"{what} holds half of a surrogate pair (U+{ord(text[broken.start]):04X}, character {broken.start}): it "
            "was decoded by another encoding than its own. Decode it anew, or leave such halves out: "
            "text.encode(errors='ignore').decode()."
        ) from None
