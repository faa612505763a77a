"""Shares of letters and digits: what is mostly punctuation or numbers is data, drawings or encoded."""

from __future__ import annotations

import re
import string
from collections.abc import Callable

from megacode.data.prepare.filters.rules import Rules, Shares
from megacode.data.prepare.filters.text import Text

_ASCII = re.compile(r"[\x00-\x7f]+")
_LETTERS = string.ascii_letters.encode()
_LETTERS_AND_DIGITS = _LETTERS + string.digits.encode()


def bad_characters(text: Text, rules: Rules) -> str | None:
    """Return why the file's characters drop it, or None."""
    least = _share(text, rules.alphanumeric, rules.alphanumeric_of)
    if least and alphanumeric_characters(text.content) < least * len(text.content):
        return f"under {least:.0%} letters and digits"
    least = _share(text, rules.alphabetic, rules.alphabetic_of)
    if least and alphabetic_characters(text.content) < least * len(text.content):
        return f"under {least:.0%} letters"
    return None


def alphanumeric_characters(content: str) -> int:
    """Return how many characters are letters or digits (`str.isalnum`), counted in C for the ASCII part."""
    return _count(content, _LETTERS_AND_DIGITS, str.isalnum)


def alphabetic_characters(content: str) -> int:
    """Return how many characters are letters (`str.isalpha`), counted in C for the ASCII part."""
    return _count(content, _LETTERS, str.isalpha)


def _count(content: str, counted: bytes, is_counted: Callable[[str], bool]) -> int:
    """Return how many characters of `content` are in `counted` or, beyond ASCII, hold for `is_counted`."""
    raw = content.encode("ascii", "replace")
    ascii_count = len(raw) - len(raw.translate(None, counted))
    if content.isascii():
        return ascii_count
    return ascii_count + sum(map(is_counted, _ASCII.sub("", content)))


def _share(text: Text, usual: float, others: Shares) -> float:
    """Return the share that holds for the file's ending, else for its language, else as usual."""
    for key in ("." + text.ending, text.language):
        for name, share in others:
            if name == key:
                return share
    return usual
