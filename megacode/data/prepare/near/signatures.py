"""MinHash signatures of documents.

A document is the set of its 5-grams of words, words being the runs of [A-Za-z_0-9] (StarCoder, bigcode-dataset).
Two signatures agree in a share of places that estimates the sets' Jaccard similarity (Broder 1997). Words are found
and hashed by numpy in the UTF-8 bytes of many documents at once: eight bytes of every word at a time, so the work
grows with the words and not with the characters. rensa makes the permutations.

Limits: a word longer than BATCH_CHARACTERS counts as several.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sized

import numpy as np
import rensa

from megacode.console import progress
from megacode.data.mixing import mixed_all

NGRAM = 5
SEED = 1
BATCH_CHARACTERS = 200_000  # how much text is in work at once; a longer document goes in pieces
LONG_WORD = 64  # bytes; longer words are few, and hashed one by one

_IN_WORD = bytes(bool(re.match(rb"[A-Za-z_0-9]", bytes([byte]))) for byte in range(256))
_WORD_BYTES = 8
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, made odd; its powers tell a 5-gram's places apart
_GRAM_MULTIPLIERS = tuple(np.uint64(pow(_MULTIPLIER, place + 1, 1 << 64)) for place in range(NGRAM))


def signatures(contents: Iterable[str], permutations: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `rows` int64 [k], which of `contents` have a 5-gram, and their signatures uint32 [k, permutations].

    Documents of fewer than five words have no 5-gram and no signature. `contents` is read once and never held.
    """
    rows = [np.zeros(0, dtype=np.int64)]
    matrices = [np.zeros((0, permutations), dtype=np.uint32)]
    with progress("signatures", len(contents) if isinstance(contents, Sized) else None) as advance:
        first = 0
        for texts in _batches(contents):
            if len(texts[0]) > BATCH_CHARACTERS:
                found, matrix = _signature_of_long(texts[0], permutations)
            else:
                found, matrix = _signatures_of_batch(texts, permutations)
            rows.append(found + first)
            matrices.append(matrix)
            first += len(texts)
            advance(len(texts))
    return np.concatenate(rows), np.concatenate(matrices)


def _batches(contents: Iterable[str]) -> Iterator[list[str]]:
    """Yield `contents` in order in lists of BATCH_CHARACTERS at most; a longer text is a list of its own."""
    texts: list[str] = []
    pending = 0
    for content in contents:
        if texts and pending + len(content) > BATCH_CHARACTERS:
            yield texts
            texts, pending = [], 0
        texts.append(content)
        pending += len(content)
    if texts:
        yield texts


def _signatures_of_batch(texts: list[str], permutations: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which of `texts` have a 5-gram, int64 [k], and their signatures uint32 [k, permutations]."""
    encoded = [_encoded(text) for text in texts]
    words, starts = _words(b"\n".join(encoded))
    ends = np.searchsorted(starts, np.cumsum([len(data) + 1 for data in encoded]))  # of each text, in words
    counts = np.maximum(np.diff(ends, prepend=0) - NGRAM + 1, 0)
    grams = _grams(words)
    own = np.ones(grams.size, dtype=bool)  # not begun in one text and ended in another
    for place in range(1, NGRAM):
        crossing = ends[:-1] - place
        own[crossing[(crossing >= 0) & (crossing < grams.size)]] = False
    found = np.flatnonzero(counts)
    return found, _digest(grams[own], counts[found], permutations)


def _signature_of_long(text: str, permutations: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the same for one long text, piece by piece: the least over its pieces is the least over the text."""
    least = np.zeros((0, permutations), dtype=np.uint32)
    carried = np.zeros(0, dtype=np.uint64)  # the last words of the piece before
    for piece in _pieces(text):
        words = np.concatenate([carried, _words(piece)[0]])
        carried = words[-(NGRAM - 1) :]
        grams = _grams(words)
        if grams.size:
            digest = _digest(grams, np.array([grams.size]), permutations)
            least = np.minimum(least, digest) if least.size else digest
    return np.arange(least.shape[0]), least


def _pieces(text: str) -> Iterator[bytes]:
    """Yield `text` as UTF-8 in pieces of BATCH_CHARACTERS at most, cut between words where a piece has two."""
    start = 0
    while start < len(text):
        piece = _encoded(text[start : start + BATCH_CHARACTERS])
        start += BATCH_CHARACTERS
        if start < len(text):
            in_word = np.frombuffer(piece.translate(_IN_WORD), dtype=bool)
            begun = int(np.argmin(in_word[::-1]))  # bytes, and as they are ASCII characters, of a word at the end
            start -= begun
            piece = piece[: len(piece) - begun]
        yield piece


def _encoded(text: str) -> bytes:
    """Return `text` as UTF-8; lone surrogates, which some sources hold, separate words like all beyond ASCII."""
    return text.encode("utf-8", "surrogatepass")


def _words(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return a 64-bit hash of every word of `data`, uint64 [words], and where each begins, int64 [words].

    Eight bytes from every word's beginning on, then from those longer than eight, and so on. Words of up to eight bytes
    never collide.
    """
    in_word = np.frombuffer(b"\0" + data.translate(_IN_WORD) + b"\0", dtype=bool)
    borders = np.flatnonzero(in_word[1:] != in_word[:-1])
    starts = np.ascontiguousarray(borders[::2])
    lengths = borders[1::2] - starts
    eights = np.ndarray((len(data) + 1,), dtype="<u8", buffer=data + bytes(_WORD_BYTES), strides=(1,))
    masks = np.array([(1 << 8 * count) - 1 for count in range(_WORD_BYTES + 1)], dtype=np.uint64)
    hashes = mixed_all(eights[starts] & masks[np.minimum(lengths, _WORD_BYTES)])
    longer = np.flatnonzero(lengths > _WORD_BYTES)
    for offset in range(_WORD_BYTES, LONG_WORD, _WORD_BYTES):
        longer = longer[lengths[longer] > offset]
        letters = eights[starts[longer] + offset] & masks[np.minimum(lengths[longer] - offset, _WORD_BYTES)]
        hashes[longer] = mixed_all(hashes[longer] + letters)
    for word in np.flatnonzero(lengths > LONG_WORD).tolist():
        letters = data[starts[word] : starts[word] + lengths[word]]
        hashes[word] = int.from_bytes(hashlib.blake2b(letters, digest_size=8).digest(), "little")
    return hashes, starts


def _grams(words: np.ndarray) -> np.ndarray:
    """Return a 64-bit hash of every run of five of `words`, uint64 [max(words - 4, 0)]."""
    count = max(words.size - NGRAM + 1, 0)
    total = np.zeros(count, dtype=np.uint64)
    for place, multiplier in enumerate(_GRAM_MULTIPLIERS):
        total += words[place : place + count] * multiplier
    return mixed_all(total)


def _digest(grams: np.ndarray, counts: np.ndarray, permutations: int) -> np.ndarray:
    """Return the signatures of documents that have `counts` of `grams` each, uint32 [documents, permutations]."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(grams, offsets, permutations, SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(counts.size, permutations)
