"""Private key blocks, from their first to their last line: PEM, OpenPGP and PuTTY, also spread over string literals."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megacode.data.prepare.redact.kinds import KEY, Span

LONGEST_BLOCK = 20_000
SHORTEST_BODY = 40
BODY_SHARE = 0.6
_BEGIN = re.compile(r"-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}")
_END = re.compile(r"-{4,5} ?END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}")
_PUTTY_BEGIN = "PuTTY-User-Key-File-"
_PUTTY_END = re.compile(r"Private-(?:MAC|Hash): ?[0-9a-fA-F]+")
_BASE64_RUN = re.compile(r"[A-Za-z0-9+/=]{16,}+")
_BODY_LINES = re.compile(r"(?:[ \t]*+(?:[A-Za-z0-9+/=]{24,}+|[A-Za-z-]{1,30}: [^\n]{0,100}+)?+[ \t]*+\r?\n?+){1,400}+")


def find_blocks(content: str) -> Iterator[Span]:
    """Yield where private keys lie. Words about keys (the first line alone, or code between the two) stay.

    A block without its last line ends with the last line that holds nothing but base64.
    """
    if "PRIVATE KEY" in content:
        yield from _pem(content)
    start = content.find(_PUTTY_BEGIN)
    while start >= 0:
        end = _PUTTY_END.search(content, start, start + LONGEST_BLOCK)
        if end:
            yield Span(start, end.end(), KEY)
        start = content.find(_PUTTY_BEGIN, end.end() if end else start + 1)


def _pem(content: str) -> Iterator[Span]:
    """Yield the blocks between BEGIN and END."""
    begins = list(_BEGIN.finditer(content))
    for number, begin in enumerate(begins):
        following = begins[number + 1].start() if number + 1 < len(begins) else len(content)
        limit = min(following, begin.end() + LONGEST_BLOCK)
        end = _END.search(content, begin.end(), limit)
        if end:
            if _is_body(content[begin.end() : end.start()]):
                yield Span(begin.start(), end.end(), KEY)
            continue
        lines = _BODY_LINES.match(content, begin.end(), limit)
        if lines and _is_body(lines.group()):
            yield Span(begin.start(), begin.end() + len(lines.group().rstrip()), KEY)


def _is_body(text: str) -> bool:
    """Return whether `text` is mostly base64, and so a key, rather than code or prose."""
    encoded = sum(len(run) for run in _BASE64_RUN.findall(text))
    return encoded >= SHORTEST_BODY and encoded >= BODY_SHARE * len("".join(text.split()))
