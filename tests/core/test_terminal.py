"""What others wrote reaches a terminal as text."""

from __future__ import annotations

import pytest

from hf_fsl.core.terminal import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07pet", r"\x1b[2J\x1b]0;title\x07pet"),
        ("one\r\ntwo\tthree", r"one\r\ntwo\tthree"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("\ud83d alone", r"\ud83d alone"),
        ("a\u2028b", r"a\u2028b"),
        ("plain, ünï, 日本, 👩‍👩‍👧", "plain, ünï, 日本, 👩‍👩‍👧"),
        (None, "None"),
    ],
)
def test_what_acts_on_a_terminal_is_escaped(text, shown):
    assert printable(text) == shown
    printable(text).encode()


def test_a_message_keeps_its_lines_and_nothing_else():
    assert printable("one\n\ttwo\r\x1b[1A", lines=True) == "one\n\ttwo\\r\\x1b[1A"
