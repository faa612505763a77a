r"""Data written as text: runs of base64, of bytes in hexadecimal, and of \u escapes.

The three patterns are StarCoder2's (arXiv 2402.19173, section 2.4): [a-zA-Z0-9+/\n=]{64,} and
(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,} and (?:\\u[0-9a-fA-F]{4}){8,}. Each is found here in linear time, and
files that cannot hold one are told by translating their bytes, which is over ten times as fast as matching.
As published, bytes that a comma and a blank separate are no run.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from megacode.data.prepare.filters.rules import Rules
from megacode.data.prepare.filters.text import Text

Span = tuple[int, int]
BASE64_RUN = 64
_HEX_BYTES = 8
_SHORTEST_HEX = 2 * _HEX_BYTES  # without separators


def _marks(characters: str) -> bytes:
    """Return the table that maps `characters` to "x" and all others to a blank."""
    return bytes(ord("x" if chr(byte) in characters else " ") for byte in range(256))


_BASE64 = _marks(string.ascii_letters + string.digits + "+/\n=")
_NEAR_HEX = _marks(string.hexdigits + "xX\\,")
_HEX_IGNORED = b" \t\n\r\f\v\x1c\x1d\x1e\x1f?"  # what may separate bytes; "?" stands for blanks that are not ASCII
_HEX_CHAIN = re.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*+))++")
_HEX_RUN = re.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*+)){8}")
_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}+")


def encoded_data(text: Text, rules: Rules) -> str | None:
    """Return why the file's encoded data drops it, or None."""
    if rules.encoded_run is None:
        return None
    spans = encoded_spans(text)
    if any(end - start > rules.encoded_run for start, end in spans):
        return f"encoded data of over {rules.encoded_run} characters"
    if _covered(spans) > rules.encoded_share * len(text.content):
        return f"over {rules.encoded_share:.0%} encoded data"
    return None


def encoded_spans(text: Text) -> list[Span]:
    """Return (start, end) in characters of every run of each kind; runs of two kinds may overlap."""
    return [*_base64(text.ascii), *_hexadecimal(text), *_escapes(text.content)]


def _base64(raw: bytes) -> Iterator[Span]:
    marks = raw.translate(_BASE64)
    run = b"x" * BASE64_RUN
    start = marks.find(run)
    while start >= 0:
        end = marks.find(b" ", start)
        end = len(marks) if end < 0 else end
        yield start, end
        start = marks.find(run, end)


def _hexadecimal(text: Text) -> Iterator[Span]:
    if b"x" * _SHORTEST_HEX not in text.ascii.translate(_NEAR_HEX, _HEX_IGNORED):
        return
    for chain in _HEX_CHAIN.finditer(text.content):
        start, end = chain.span()
        if end - start > _SHORTEST_HEX and _HEX_RUN.match(text.content, start, end):
            yield start, end


def _escapes(content: str) -> Iterator[Span]:
    if "\\u" in content:
        for run in _ESCAPES.finditer(content):
            yield run.span()


def _covered(spans: list[Span]) -> int:
    """Return how many characters are in at least one span."""
    total, reached = 0, 0
    for start, end in sorted(spans):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total
