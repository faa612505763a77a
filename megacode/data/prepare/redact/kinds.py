"""What is redacted, where it lies, and what stands there afterwards.

StarCoder (arXiv 2305.06161, section 4): `<EMAIL>`, `<KEY>` and `<PASSWORD>`; an IP address becomes one of five
made-up ones of its family, which are private, so that redacting again leaves them alone.
"""

from __future__ import annotations

import hashlib
import re
from types import MappingProxyType
from typing import NamedTuple

EMAIL, IP_ADDRESS, KEY, PASSWORD = "EMAIL", "IP_ADDRESS", "KEY", "PASSWORD"
SHORTEST_VALUE = 4
SHORTEST_KEY = 9
PLACEHOLDERS = MappingProxyType({EMAIL: "<EMAIL>", KEY: "<KEY>", PASSWORD: "<PASSWORD>"})
ANY_PLACEHOLDER = re.compile("|".join(PLACEHOLDERS.values()))
MADE_UP_V4 = ("172.16.31.10", "172.16.58.3", "172.16.17.32", "192.168.127.12", "192.168.3.11")
MADE_UP_V6 = (
    "fd00:c2b6:b24b:be67:2827:688d:e6a1:6a3b",
    "fd00:a516:7c1b:17cd:6d81:2137:bd2a:2c5b",
    "fc00:e968:6179::de52:7100",
    "fc00:db20:35b:7399::5",
    "fdf8:f53e:61e4::18",
)


class Span(NamedTuple):
    """Characters `start` to `end` (not included) of a text, and the kind of what lies there."""

    start: int
    end: int
    kind: str


def replacement(kind: str, value: str, identity: str) -> str:
    """Return what stands for `value`: for an IP address, one of five by a hash of it and the document's `identity`."""
    if kind != IP_ADDRESS:
        return PLACEHOLDERS[kind]
    family = MADE_UP_V6 if ":" in value else MADE_UP_V4
    digest = hashlib.sha256(f"{identity}\n{value}".encode("utf-8", "surrogatepass")).digest()
    return family[int.from_bytes(digest[:8]) % len(family)]
