"""E-mail and IP addresses in code, without what only looks like one: versions, decorators, git remotes, examples.

Each search starts from a character that is rare in code (`@`, a dot before a digit, two colons near each other) and
looks at a bounded neighbourhood, so that no line, however long or odd, takes more than linear time.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache

from megacode.data.prepare.redact.kinds import EMAIL, IP_ADDRESS, SHORTEST_VALUE, Span

LONGEST_LOCAL_PART = 64
_LOCAL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}(?:[A-Za-z]{2,18}|xn--[a-z0-9]{2,30})(?![\w(\[-]|\.\w)"
)
_PAST_LATIN = "\u0250"
_ESCAPED_LETTERS = frozenset("abfnrtv0")
_USERINFO = re.compile(r"://[^\s/'\"]*$")
_LONGEST_URL_HEAD = 200
# RFC 2606 and RFC 6761, and the local network's name of RFC 6762.
_EXAMPLE_DOMAIN = re.compile(
    r"(?:^|\.)(?:example\.(?:com|org|net|edu)|(?:example|test|invalid|localhost|localdomain|local))$", re.IGNORECASE
)
_REPOSITORY_USERS = frozenset({"git", "hg", "svn", "gitlab"})
# Endings of file names (icon@2x.png) and attributes of the right side of a matrix product (a@b.mean).
_ENDINGS = """
png jpg jpeg gif svg webp ico bmp css scss less js jsx ts tsx mjs cjs json html htm xml yml yaml toml md txt pdf
py rb rs go java kt swift cpp hpp php lua pl so dll exe zip tar gz whl tgz service target timer socket
"""
_ATTRIBUTES = """
dot mean sum std var min max real imag shape size flat data conj transpose grad weight bias values item astype
format join encode decode copy mul matmul inv diag
"""
_NO_DOMAIN = frozenset((*_ENDINGS.split(), *_ATTRIBUTES.split()))
# Google, Cloudflare, Quad9, OpenDNS, Comodo, AdGuard, Alternate DNS; then the first four by IPv6.
_RESOLVERS = """
8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9 149.112.112.112 208.67.222.222 208.67.220.220 8.26.56.26 8.20.247.20
94.140.14.14 94.140.15.15 76.76.19.19 76.223.122.150
"""
_RESOLVERS_V6 = """
2001:4860:4860::8888 2001:4860:4860::8844 2606:4700:4700::1111 2606:4700:4700::1001 2620:fe::fe 2620:fe::9
2620:119:35::35 2620:119:53::53
"""
POPULAR_DNS = frozenset(_RESOLVERS.split())
POPULAR_DNS_V6 = frozenset(map(ipaddress.IPv6Address, _RESOLVERS_V6.split()))
_V4_MIDDLE = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_V4 = re.compile(r"(?<![\w.])(?<![A-Za-z_]-)(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\.?\w|-[A-Za-z])")
_V6_MIDDLE = re.compile(r":(?<=[23][0-9A-Fa-f]{3}:)[0-9A-Fa-f]{0,4}:")
_V6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,35}(?![\w:])")
_VERSION_BEFORE = re.compile(
    r"(?:version|\bver\b|\bv\.?|release|\brev|build|assembly|\bsdk|section|\bsec\.|chapter|\brfc|\boid\b|identifier|§)"
    r"[\w\"' ]{0,16}[=:(\[,\"' <>~^]{0,6}$|[=<>~^!]=?=$|[~^]$",
    re.IGNORECASE,
)
_VERSION_CONTEXT = 48
SMALL_NUMBER, SMALLER_NUMBER, LARGEST_LAST = 32, 16, 100


def find_emails(content: str) -> Iterator[Span]:
    """Yield where an e-mail address lies that is not an example's, a git remote's or the head of a URL."""
    at = content.find("@")
    while at >= 0:
        span = _email_at(content, at)
        if span:
            yield span
        at = content.find("@", max(at + 1, span.end if span else 0))


def find_ips(content: str) -> Iterator[Span]:
    """Yield where a public IPv4 or IPv6 address lies that is neither a popular resolver nor a version number."""
    if _V6_MIDDLE.search(content):
        for match in _around(content, _V6_MIDDLE, _V6, before=4, after=40):
            if _is_personal_v6(match.group()):
                yield Span(*match.span(), IP_ADDRESS)
    for match in _around(content, _V4_MIDDLE, _V4, before=4, after=18):
        before = content[max(0, match.start() - _VERSION_CONTEXT) : match.start()].rpartition("\n")[2]
        if _is_personal_v4(match.group()) and not _VERSION_BEFORE.search(before):
            yield Span(*match.span(), IP_ADDRESS)


def _email_at(content: str, at: int) -> Span | None:
    """Return the address around the `@` at `at`, or None."""
    if not at or not _belongs_to_local_part(content[at - 1]):
        return None
    head = content[max(0, at - LONGEST_LOCAL_PART - 1) : at]
    start = at - (len(head) - len(head.rstrip(_LOCAL)))
    while start and at - start <= LONGEST_LOCAL_PART and _belongs_to_local_part(content[start - 1]):
        start -= 1
    if start == at or at - start > LONGEST_LOCAL_PART:
        return None
    if start and content[start - 1] == "\\" and content[start] in _ESCAPED_LETTERS:
        start += 1  # the n of "\nname@host"
    if "%" in content[start:at] or content[start - 1 : start] in ("}", "$"):
        return None  # a format or a template
    while start < at and content[start] in ".-+_":
        start += 1
    domain = _DOMAIN.match(content, at + 1)
    local = content[start:at]
    if not local or not domain or local.endswith("."):
        return None
    if _is_no_address(local, domain.group()) or domain.end() - start < SHORTEST_VALUE:
        return None
    if _USERINFO.search(content[max(0, start - _LONGEST_URL_HEAD) : start].rpartition("\n")[2]):
        return None
    return Span(start, domain.end(), EMAIL)


def _belongs_to_local_part(character: str) -> bool:
    """Return whether `character` is a letter of a mail name, or an accented Latin one."""
    return character in _LOCAL or (character.isalpha() and character < _PAST_LATIN)


def _is_no_address(local: str, domain: str) -> bool:
    """Return whether nobody is behind it: a repository's user, an example's domain, a file or an attribute."""
    if local in _REPOSITORY_USERS or _EXAMPLE_DOMAIN.search(domain):
        return True
    return domain.rpartition(".")[2].lower() in _NO_DOMAIN


def _around(
    content: str, middle: re.Pattern[str], whole: re.Pattern[str], before: int, after: int
) -> Iterator[re.Match[str]]:
    """Yield the matches of `whole` that begin at most `before` characters ahead of a match of `middle`, each once."""
    done = 0
    for hint in middle.finditer(content):
        if hint.start() < done:
            continue
        start = max(done, hint.start() - before)
        match = whole.search(content, start, hint.start() + after + 1)
        if match:
            done = match.end()
            yield match


@lru_cache(maxsize=1024)
def _is_personal_v4(text: str) -> bool:
    """Return whether `text` is an address of the public network, and not a version: all small, or a network's zeros."""
    numbers = [int(number) for number in text.split(".")]
    if any(len(number) > 1 and number[0] == "0" for number in text.split(".")) or max(numbers) > 255:
        return False
    if text in POPULAR_DNS or _is_no_host(numbers) or numbers[2:] == [0, 0]:
        return False
    address = ipaddress.IPv4Address(text)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _is_no_host(numbers: list[int]) -> bool:
    """Return whether the numbers are all equal, all small, or three smaller still: one address in a thousand is."""
    *three, largest = sorted(numbers)
    return three[0] == largest or largest < SMALL_NUMBER or (three[-1] < SMALLER_NUMBER and largest < LARGEST_LAST)


def _is_personal_v6(text: str) -> bool:
    """Return whether `text` is a global unicast address (2000::/3) that names a host."""
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    names_a_host = int(address) & ((1 << 64) - 1) != 0
    return address.is_global and names_a_host and address not in POPULAR_DNS_V6
