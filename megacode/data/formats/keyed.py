"""Draws that belong to a name: the same (seed, purpose, name) gives the same words on any machine, in any order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from megacode.data.draws import words

_HASH_DIGITS = 16


def words_for(seed: int, purpose: int, name: str, count: int) -> list[int]:
    """Return `count` numbers in [0, 2^64) for the name, whose address is 128 bits of its sha256."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    address = (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"))
    return words(seed, 0, purpose, address, count).tolist()


def hash_of(texts: Sequence[str]) -> str:
    """Return the first 16 hexadecimal digits of a sha256 that differs for any two sequences of texts."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:_HASH_DIGITS]
