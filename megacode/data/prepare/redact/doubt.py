"""Which finds are believed: what the detectors take for a secret and people would not stays as it is.

StarCoder's rules (arXiv 2305.06161, section 4.3): a key is longer than 8 characters and gibberish, anything else
longer than 3. The rest is what real code holds under names like `password`: prompts, templates, labels, paths, the
names of other fields; and random literals that are digests, UUIDs and alphabets.
"""

from __future__ import annotations

import re

from megacode.data.prepare.redact.gibberish import is_gibberish, randomness
from megacode.data.prepare.redact.kinds import ANY_PLACEHOLDER, KEY, SHORTEST_KEY, SHORTEST_VALUE
from megacode.data.prepare.redact.literals import Literal
from megacode.data.prepare.redact.tokens import Rule

SHORTEST_RANDOM = 20
LONGEST_RANDOM = 200
LINE_CONTEXT = 200
WORD_RANDOMNESS = 3.4
_TEMPLATE = re.compile(
    r"^[{<\[(].*[}>\])]$|\$\{|\{\{|\$\(|%[({]|^[$%@#&*][A-Za-z_][\w.\-/]*$|<%|#\{|%[sd]|\\[wdsSDWnrtxu]|\{\w*\}",
    re.DOTALL,
)
_URL = re.compile(r"^[a-z][a-z+]{1,10}://")
_PATH = re.compile(r"^(?:[.~]{0,2}/|[A-Za-z]:\\|[\w.\-]+/[\w.\-]+/)")
_CALL = re.compile(r"\w[(\[]|\)$|\]$|::|->|=>")
_IDENTIFIER = re.compile(r"^[A-Za-z_][\w.\-:/]*$")
_SELF_NAMED = re.compile(r"pass|pwd|secret|token|key|auth|login|user|credential|example|sample|dummy|change.?me", re.I)
_SEPARATORS = re.compile(r"[\s_\-./:,;!?|&+]+")
_UUID = re.compile(r"^[{]?[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}[}]?$")
_HEX = re.compile(r"^[0-9a-fA-F]+$")
_DIGEST_WORD = re.compile(
    r"sha|md5|hash|digest|checksum|integrity|crc|commit|revision|etag|fingerprint|uuid|guid|byte", re.I
)
_SECRET_WORD = re.compile(r"key|token|secret|auth|cred|passw|pwd|session|bearer|private|access|signature", re.I)
_WITH_DIGEST_NAME = re.compile(r"^(?:sha\d|md5)", re.I)


def believe_token(rule: Rule, value: str) -> bool:
    """Return whether what `rule` matched is a secret."""
    if rule.kind != KEY:
        return _is_password(value)
    if len(value) < SHORTEST_KEY or ANY_PLACEHOLDER.search(value) or len(set(value)) < SHORTEST_KEY - 1:
        return False
    return not rule.random or (any(map(str.isdigit, value)) and _looks_random(value))


def believe_literal(literal: Literal, content: str) -> bool:
    """Return whether a literal is a secret: by its name and its look, or by its entropy and its line."""
    value = content[literal.span.start : literal.span.end]
    if not literal.name:
        return _is_random_literal(value, literal, content)
    if literal.span.kind == KEY:
        return len(value) >= SHORTEST_KEY and not _is_no_value(value) and _looks_random(value)
    return _is_password(value)


def _is_password(value: str) -> bool:
    """Return whether `value`, found where a password stands, is one: not a label, a template or a word."""
    if len(value) < SHORTEST_VALUE or _is_no_value(value) or len(set(value)) < 3:
        return False
    if _IDENTIFIER.match(value) and _SELF_NAMED.search(value):
        return False
    return not _is_words(value)


def _is_no_value(value: str) -> bool:
    """Return whether `value` stands for something else: white space (prose), template, path, URL, call, UUID."""
    if any(map(str.isspace, value)) or not value.isprintable() or ANY_PLACEHOLDER.search(value):
        return True
    if any(form.search(value) for form in (_TEMPLATE, _URL, _CALL, _UUID)):
        return True
    return bool(_PATH.search(value)) and not is_gibberish(value)  # base64 may begin with a slash


def _is_words(value: str) -> bool:
    """Return whether `value` is made of words only, as names of things are: no digit, and no part that looks random."""
    parts = [part for part in _SEPARATORS.split(value) if part]
    if not all(part.isalpha() for part in parts):
        return False
    return all(randomness(part) < WORD_RANDOMNESS for part in parts)


def _looks_random(value: str) -> bool:
    """Return whether `value` is gibberish; hexadecimal digits, which no table of letters judges, if they are varied."""
    if _HEX.match(value):
        return len(set(value.lower())) >= min(8, len(value) // 2) and not value.isdigit()
    return is_gibberish(value)


def _is_random_literal(value: str, literal: Literal, content: str) -> bool:
    """Return whether a literal without a telling name is a key; hexadecimal only on a line that speaks of secrets."""
    if not SHORTEST_RANDOM <= len(value) <= LONGEST_RANDOM or _is_no_value(value) or _WITH_DIGEST_NAME.match(value):
        return False
    if not any(map(str.isdigit, value)) or not _looks_random(value):
        return False
    line = _line_around(content, literal.span.start, literal.span.end)
    if _DIGEST_WORD.search(line):
        return False
    return not _HEX.match(value) or bool(_SECRET_WORD.search(line))


def _line_around(content: str, start: int, end: int) -> str:
    """Return what stands on the line of [start, end), up to LINE_CONTEXT characters before and after it."""
    before = content[max(0, start - LINE_CONTEXT) : start].rpartition("\n")[2]
    return before + content[end : end + LINE_CONTEXT].partition("\n")[0]
