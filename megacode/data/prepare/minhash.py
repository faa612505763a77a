"""MinHash signatures of documents, and which pairs to compare.

A document is the set of its 5-grams of words, words being the runs of [A-Za-z_0-9] (StarCoder, bigcode-dataset).
Two signatures agree in a share of places that estimates the sets' Jaccard similarity (Broder 1997). Documents that
agree in a whole band of rows become candidates; bands and rows are chosen so that the error at the threshold is least.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
import rensa

from megacode.console import progress

NGRAM = 5
SEED = 1
BATCH_WORDS = 1_000_000

_WORD = re.compile(r"[A-Za-z_0-9]+")
_MULTIPLIER = 0x9E3779B97F4A7C15


def signatures(contents: Sequence[str], permutations: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `rows` [k], the documents that have a 5-gram, and their signatures uint32 [k, permutations].

    Documents of fewer than five words have no 5-gram and no signature.
    """
    known: dict[str, int] = {}
    rows: list[int] = []
    parts: list[np.ndarray] = []
    matrices: list[np.ndarray] = [np.zeros((0, permutations), dtype=np.uint32)]
    pending = 0
    with progress("signatures", len(contents)) as advance:
        for index, content in enumerate(contents):
            grams = _grams(content, known)
            if grams.size:
                rows.append(index)
                parts.append(grams)
                pending += grams.size
            if pending > BATCH_WORDS:
                matrices.append(_digest(parts, permutations))
                parts, pending = [], 0
            advance(1)
    if parts:
        matrices.append(_digest(parts, permutations))
    return np.array(rows, dtype=np.int64), np.concatenate(matrices)


def bands_and_rows(threshold: float, permutations: int) -> tuple[int, int]:
    """Return (bands, rows), bands x rows <= permutations, with the least total error at `threshold`.

    The error is the area of false positives below the threshold plus that of false negatives above it, where a pair
    of similarity t becomes a candidate with probability 1 - (1 - t^rows)^bands.
    """
    width = 0.001
    grid = np.arange(0.0, 1.0, width) + width / 2
    above = grid >= threshold
    best, least = (1, 1), np.inf
    for bands in range(1, permutations + 1):
        for rows in range(1, permutations // bands + 1):
            candidate = 1 - (1 - grid**rows) ** bands
            error = float(np.where(above, 1 - candidate, candidate).sum() * width)
            if error < least:
                best, least = (bands, rows), error
    return best


def buckets(matrix: np.ndarray, bands: int, rows: int) -> Iterator[np.ndarray]:
    """Yield the groups of two or more rows of `matrix` that agree in a whole band, as ascending row numbers."""
    for band in range(bands):
        block = np.ascontiguousarray(matrix[:, band * rows : (band + 1) * rows])
        _, inverse, counts = np.unique(
            block.view(np.dtype((np.void, block.dtype.itemsize * rows))).ravel(),
            return_inverse=True,
            return_counts=True,
        )
        order = np.argsort(inverse, kind="stable")
        ends = np.cumsum(counts)
        for group in np.flatnonzero(counts > 1).tolist():
            yield order[ends[group] - counts[group] : ends[group]]


def _grams(content: str, known: dict[str, int]) -> np.ndarray:
    """Return a 64-bit hash of every 5-gram of words, uint64 [words - 4]; `known` remembers the words' hashes."""
    words = _WORD.findall(content)
    if len(words) < NGRAM:
        return np.zeros(0, dtype=np.uint64)
    for word in set(words).difference(known):
        known[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    values = np.array([known[word] for word in words], dtype=np.uint64)
    count = len(words) - NGRAM + 1
    total = np.zeros(count, dtype=np.uint64)
    for place in range(NGRAM):
        total += values[place : place + count] * np.uint64(pow(_MULTIPLIER, place + 1, 1 << 64))
    return _mixed(total)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Return `values` uint64 through splitmix64's finalizer: every bit of the sum reaches every bit of the hash."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _digest(parts: list[np.ndarray], permutations: int) -> np.ndarray:
    """Return the signatures of several documents' 5-gram hashes, uint32 [documents, permutations]."""
    offsets = np.concatenate([[0], np.cumsum([part.size for part in parts])]).astype(np.uint64)
    flat = np.concatenate(parts)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, permutations, SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)
