"""Redaction: find, settle overlaps, replace, and look again until nothing is found: a second time changes nothing.

A pure function of the content. Everything outside the replaced places stays byte for byte.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from megacode.data.documents import Document, with_parts
from megacode.data.prepare.redact.addresses import find_emails, find_ips
from megacode.data.prepare.redact.blocks import find_blocks
from megacode.data.prepare.redact.doubt import believe_literal, believe_token
from megacode.data.prepare.redact.kinds import IP_ADDRESS, KEY, PLACEHOLDERS, Span, replacement
from megacode.data.prepare.redact.literals import find_literals
from megacode.data.prepare.redact.tokens import find_tokens, fold

UNQUOTED_LANGUAGES = frozenset({"yaml", "ini", "toml", "java properties", "shell", "dockerfile"})


@dataclass(frozen=True)
class Redacted:
    """A text without personal data.

    `counts`: (kind, replaced places) in alphabetical order, kinds without one left out. `places`: where the
    replacements lie in `content`, in order.
    """

    content: str
    counts: tuple[tuple[str, int], ...]
    places: tuple[Span, ...]


def redact(content: str, identity: str = "", language: str = "") -> Redacted:
    """Return `content` with e-mail and IP addresses, keys and passwords replaced (StarCoder, arXiv 2305.06161, 4.3).

    Equal values get equal replacements. `identity`, the document's, decides which of the five made-up addresses an
    IP address becomes; by default it is the sha256 of `content`. `language`, in lower case: in settings files (YAML,
    INI and the like) passwords and keys count without quotes too.
    """
    identity = identity or hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    counts: Counter[str] = Counter()
    places: list[Span] = []
    while spans := find(content, language in UNQUOTED_LANGUAGES):
        counts.update(span.kind for span in spans)
        content, places = _replace(content, spans, places, identity)
    return Redacted(content, tuple(sorted(counts.items())), tuple(places))


def redact_document(document: Document, special_tokens: bool = False) -> tuple[Document, tuple[tuple[str, int], ...]]:
    """Return `document` with the text of every part redacted, and the counts; the same object if nothing was found.

    `special_tokens`: `<EMAIL>`, `<KEY>` and `<PASSWORD>` become special tokens of their own (StarCoder 2 has them)
    instead of plain text.
    """
    identity = hashlib.sha256(document.content.encode("utf-8", "surrogatepass")).hexdigest()
    counts: Counter[str] = Counter()
    parts: list[tuple[str, str]] = []
    for special, text in document.pieces:
        redacted = redact(text, identity, document.language)
        counts.update(dict(redacted.counts))
        parts += _split(special, redacted) if special_tokens else [(special, redacted.content)]
    if not counts:
        return document, ()
    result = tuple(sorted(counts.items()))
    if not document.parts and len(parts) == 1:
        return replace(document, content=parts[0][1]), result
    return with_parts(document, parts), result


def find(content: str, unquoted: bool = False) -> list[Span]:
    """Return what is to be replaced in `content`, in order, without overlaps; `unquoted`: it is a settings file.

    Overlapping secrets become one, so that no rest of one stays; a key wins over a password, and both over addresses.
    """
    folded = fold(content)
    tokens = (
        span for rule, span in find_tokens(content, folded) if believe_token(rule, content[span.start : span.end])
    )
    named = find_literals(content, folded, unquoted)
    literals = (literal.span for literal in named if believe_literal(literal, content))
    secrets = _union(chain(find_blocks(content), tokens, literals))
    addresses = sorted(chain(find_emails(content), find_ips(content)), key=lambda span: (span.start, -span.end))
    starts = [span.start for span in secrets]
    spans = list(secrets)
    reached = 0
    for span in addresses:
        after = bisect_left(starts, span.end)
        if span.start >= reached and not (after and secrets[after - 1].end > span.start):
            spans.append(span)
            reached = span.end
    return sorted(spans)


def _union(spans: Iterable[Span]) -> list[Span]:
    """Return `spans` with those that overlap made one."""
    united: list[Span] = []
    for span in sorted(spans):
        if united and span.start < united[-1].end:
            last = united[-1]
            kind = KEY if KEY in (last.kind, span.kind) else last.kind
            united[-1] = Span(last.start, max(last.end, span.end), kind)
        else:
            united.append(span)
    return united


def _replace(content: str, spans: Sequence[Span], places: Sequence[Span], identity: str) -> tuple[str, list[Span]]:
    """Return `content` with `spans` replaced, and the places of these and the earlier replacements that are left."""
    pieces: list[str] = []
    moved: list[Span] = []
    older = iter((*places, Span(len(content) + 1, len(content) + 1, "")))
    place = next(older)
    reached = shift = 0
    for span in spans:
        while place.start < span.start:
            moved.append(Span(place.start + shift, place.end + shift, place.kind))
            place = next(older)
        while place.start < span.end:
            place = next(older)
        text = replacement(span.kind, content[span.start : span.end], identity)
        pieces += (content[reached : span.start], text)
        moved.append(Span(span.start + shift, span.start + shift + len(text), span.kind))
        shift += len(text) - (span.end - span.start)
        reached = span.end
    while place.kind:
        moved.append(Span(place.start + shift, place.end + shift, place.kind))
        place = next(older)
    pieces.append(content[reached:])
    return "".join(pieces), moved


def _split(special: str, redacted: Redacted) -> list[tuple[str, str]]:
    """Return the parts of a redacted text whose placeholders are special tokens; made-up IP addresses stay text."""
    parts: list[tuple[str, str]] = []
    reached = 0
    for place in redacted.places:
        if place.kind != IP_ADDRESS:
            parts.append((special, redacted.content[reached : place.start]))
            special, reached = PLACEHOLDERS[place.kind], place.end
    return [*parts, (special, redacted.content[reached:])]
