"""Near deduplication in documents a second: ours, rensa's own high-level path, and datasketch, in turns.

All start from texts and end with which documents would go. The peers shingle as their own examples do (a regular
expression and joined 5-grams); ours also compares the signatures of candidates and joins whole clusters. Rates are of
the best round: what disturbs a machine only slows.
"""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Callable, Sequence

from megacode.data.prepare.near.in_memory import near_labels
from megacode.data.prepare.near.signatures import signatures

THRESHOLD = 0.7
PERMUTATIONS = 256
RENSA_BANDS = 32  # rensa wants a divisor of PERMUTATIONS; the one nearest to our 25
NGRAM = 5

_WORD = re.compile(r"[A-Za-z_0-9]+")


def near_rates(contents: Sequence[str], rounds: int = 3) -> dict[str, object]:
    """Return what deduplicating `contents` takes, each engine `rounds` times in turns, datasketch once.

    `documents`, `megabytes` (UTF-8, 10^6 bytes), `documents_per_second` and `dropped` by engine, and `notes`, which
    name the engines that are not installed.
    """
    notes: list[str] = []
    engines: dict[str, Callable[[Sequence[str]], int | None]] = {
        "megacode": _ours,
        "megacode, signatures only": _ours_signatures,
        "rensa": _rensa,
    }
    if all(importlib.util.find_spec(name) for name in ("datasketch", "scipy")):
        engines["datasketch"] = _datasketch
    else:
        notes.append("datasketch (with scipy) is not installed here: not measured")
    best: dict[str, float] = {}
    dropped: dict[str, int | None] = {}
    for turn in range(rounds):
        for name, engine in engines.items():
            if turn and name == "datasketch":
                continue
            start = time.perf_counter()
            dropped[name] = engine(contents)
            seconds = time.perf_counter() - start
            best[name] = min(best.get(name, seconds), seconds)
    return {
        "documents": len(contents),
        "megabytes": sum(len(text.encode("utf-8", "surrogatepass")) for text in contents) / 1e6,
        "documents_per_second": {name: len(contents) / seconds for name, seconds in best.items()},
        "dropped": {name: number for name, number in dropped.items() if number is not None},
        "notes": notes,
    }


def _ours(contents: Sequence[str]) -> int:
    """Return how many documents go: all but one of each cluster."""
    _, matrix = signatures(contents, PERMUTATIONS)
    labels = near_labels(matrix, THRESHOLD)
    return int((labels != range(labels.size)).sum())


def _ours_signatures(contents: Sequence[str]) -> None:
    """Make the signatures, and no more."""
    signatures(contents, PERMUTATIONS)


def _rensa(contents: Sequence[str]) -> int:
    """Return how many documents rensa's deduplicator refuses, being like one before."""
    import rensa

    deduplicator = rensa.RMinHashDeduplicator(THRESHOLD, PERMUTATIONS, True, RENSA_BANDS, 42)
    entries = [(str(number), grams) for number, text in enumerate(contents) if (grams := _grams(text))]
    return len(entries) - sum(deduplicator.add_pairs(entries))


def _datasketch(contents: Sequence[str]) -> int:
    """Return how many documents share a bucket of datasketch's index with one before."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    refused = 0
    for number, text in enumerate(contents):
        if grams := _grams(text):
            signature = MinHash(num_perm=PERMUTATIONS)
            signature.update_batch([gram.encode() for gram in grams])
            if index.query(signature):
                refused += 1
            else:
                index.insert(number, signature)
    return refused


def _grams(text: str) -> list[str]:
    """Return the distinct 5-grams of words of a text, joined by spaces."""
    words = _WORD.findall(text)
    return list({" ".join(words[place : place + NGRAM]) for place in range(len(words) - NGRAM + 1)})
