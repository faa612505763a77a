"""Secrets in string literals: assigned to something named like one, or random by their entropy.

The rules are detect-secrets' Secret Keyword and High Entropy plugins. Where a keyword of the plugin stands, a cheap
look at what follows and precedes it decides whether the plugin sees it, and then only from the keyword to the end of
the literal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import NamedTuple

from detect_secrets.plugins.high_entropy_strings import (
    Base64HighEntropyString,
    HexHighEntropyString,
    HighEntropyStringsPlugin,
)
from detect_secrets.plugins.keyword import DENYLIST, QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP

from megacode.data.prepare.redact.kinds import KEY, PASSWORD, Span

LONGEST_LITERAL = 1000
_HINTS = ("key", "pass", "pwd", "secret", "contrase")
_KEYWORD = re.compile("|".join(DENYLIST))
_WORD = re.compile(r"\w*+")
_ASSIGNMENT = re.compile(r"[\]'\"]{0,2}\s*+(?:=>|[=!]={0,2}|:)\s*+['\"`]")
_STATEMENT = re.compile(r"\S{0,50}?\s*+['\"`][^'\"\n]{1,400}['\"`];")
_COMPARED = re.compile(r"['\"`]\s*[!=]{2,3}\s*\w{0,60}$")
# Of a setting in YAML, INI or a shell: a value without quotes and without what begins a reference or a list.
_UNQUOTED = re.compile(
    r"[\]'\"]{0,2}[ \t]*+(?::=?|=)[ \t]*+"
    r"([^\s'\"`,;#<>{}$(\[|&*!%][^\s'\"`#]{2,200}+)[ \t]*+(?:[#;][^\r\n]*+)?(?=[\r\n]|\Z)"
)
_KEY_NAMES = (
    "api",
    "auth",
    "service",
    "account",
    "priv",
    "client",
    "secret",
    "db_key",
    "dbkey",
    "database_key",
    "databasekey",
)
_LAST_WORDS = ("key", "pass", "password", "passwd", "pwd", "secret", "contraseña", "contrasena")
_LONGEST_COMPARISON, _LONGEST_COMPARED = 90, 200
_QUOTE = re.compile("['\"]")
_QUOTED = re.compile(r"""(['"])([A-Za-z0-9+/\\\-_=]{9,}+)(?=\1)""")
_HEX = frozenset("0123456789abcdefABCDEF")
# The least number of different characters that can pass the plugins' limits of 3.0 and 4.5 bits.
_FEWEST_HEX, _FEWEST_BASE64 = 9, 23


class Literal(NamedTuple):
    """A literal that a plugin takes for a secret; `name` is the word that says so, empty if its entropy does."""

    span: Span
    name: str


def find_literals(content: str, folded: str, unquoted: bool = False) -> Iterator[Literal]:
    """Yield what the two plugins find in `content`, before any doubt about it; `folded` is tokens.fold(content).

    `unquoted`: in settings files, what a keyword's line ends with counts without quotes too.
    """
    if any(hint in folded for hint in _HINTS):
        yield from _find_named(content, folded, unquoted)
    for match in _QUOTED.finditer(content):
        if _has_high_entropy(match.group(2)):
            yield Literal(Span(*match.span(2), KEY), "")


def _find_named(content: str, folded: str, unquoted: bool) -> Iterator[Literal]:
    """Yield the literals that belong to a keyword; the last keyword's word is not searched for another."""
    word_end = 0
    for keyword in _KEYWORD.finditer(folded):
        if keyword.start() < word_end:
            continue
        word = _WORD.match(content, keyword.end())
        word_end = word.end() if word else keyword.end()
        name = folded[keyword.start() : word_end]
        kind = KEY if name.startswith(_KEY_NAMES) else PASSWORD
        plain = _UNQUOTED.match(content, word_end) if unquoted and name.endswith(_LAST_WORDS) else None
        if plain:
            yield Literal(Span(*plain.span(1), kind), name)
        for start, end in _stretches(content, keyword.start(), word_end):
            for first, last in _plugin_finds(content[start:end]):
                yield Literal(Span(start + first, start + last, kind), name)


def _stretches(content: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches around the word at [start, end) that one of the plugin's expressions could match."""
    assigned = _ASSIGNMENT.match(content, end, end + LONGEST_LITERAL)
    if assigned and "\n" not in assigned.group():
        closing = _QUOTE.search(content, assigned.end(), assigned.end() + LONGEST_LITERAL)
        last = closing.end() if closing else assigned.end() + LONGEST_LITERAL
        if "\n" in content[assigned.end() : last]:
            last = content.find("\n", assigned.end())
        yield start, last + (content[last : last + 1] == ";")
    has_end = content.find(";", end, end + LONGEST_LITERAL) >= 0
    statement = _STATEMENT.match(content, end, end + LONGEST_LITERAL) if has_end else None
    if statement and "\n" not in statement.group():
        yield start, statement.end()
    if "=" in content[max(0, start - _LONGEST_COMPARISON) : start]:
        compared = _COMPARED.search(content, max(0, start - _LONGEST_COMPARISON), start)
        if compared and "\n" not in compared.group():
            first = max(0, compared.start() - _LONGEST_COMPARED)
            opening = max(content.rfind(quote, first, compared.start()) for quote in "'\"")
            opening = max(opening, content.rfind("\n", first, compared.start()) + 1, first)
            yield opening, end


@lru_cache(maxsize=1024)
def _plugin_finds(stretch: str) -> tuple[tuple[int, int], ...]:
    """Return where the plugin's expressions find a secret in `stretch`, each place once."""
    matches = ((match, group) for expression, group in _expressions() if (match := expression.search(stretch)))
    return tuple(dict.fromkeys(match.span(group) for match, group in matches))


@cache
def _expressions() -> tuple[tuple[re.Pattern[str], int], ...]:
    """Return the plugin's expressions for languages whose strings are quoted, and the secret's group in each."""
    return tuple(QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP.items())


@cache
def _entropy_plugins() -> tuple[HexHighEntropyString, Base64HighEntropyString]:
    """Return the two plugins with their own limits."""
    return HexHighEntropyString(), Base64HighEntropyString()


def _has_high_entropy(text: str) -> bool:
    """Return whether one of the two plugins takes the quoted `text` for a secret."""
    different = set(text)
    by_hex, by_base64 = _entropy_plugins()
    if different <= _HEX and len(different) >= _FEWEST_HEX and _bits(by_hex, text) > by_hex.entropy_limit:
        return True
    if len(different) < _FEWEST_BASE64:
        return False
    return _bits(by_base64, text) > by_base64.entropy_limit


def _bits(plugin: HighEntropyStringsPlugin, text: str) -> float:
    """Return the entropy of `text` as `plugin` measures it, in bits a character."""
    return plugin.calculate_shannon_entropy(text)
