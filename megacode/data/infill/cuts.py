"""Cutting a piece of code between two characters, and the tokens of what lies between two cuts.

A cut can fall inside a token. Then, and where the word it falls in has several tokens, the words at the cut are
tokenized again, so that a prefix has the tokens which an editor's prefix would get; everything else keeps its tokens.
Words begin at tokens that start with one space and then something else: byte-level BPE never merges across that place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from megacode.data.tokenizers.tokenizer import Tokenizer

MOST_WORD_TOKENS = 32  # how far from a cut the start of a word is looked for


class Cut(NamedTuple):
    """A place in a piece: before byte `offset` of token `token`; (n, 0) is the end of n tokens."""

    token: int
    offset: int


class Characters:
    """Where the characters of a piece, tokens [n], begin; `borders`: places at which it can be cut, its ends included.

    Continuation bytes of UTF-8 that follow no character belong to the one before them, or to the start of the piece.
    """

    def __init__(self, piece: np.ndarray, tokenizer: Tokenizer) -> None:
        table = tokenizer.table
        self._piece, self._table = piece, table
        self._ends = np.cumsum(table.character_starts[piece])
        first = table.blob[table.offsets[piece[0]]]
        self._has_stray_start = bool((first & 0xC0) == 0x80)
        self.borders = int(self._ends[-1]) + 1 + self._has_stray_start

    def cut(self, border: int) -> Cut:
        """Return border number `border`, in [0, borders), as a place in the piece."""
        character = border - self._has_stray_start
        if border == 0:
            return Cut(0, 0)
        if character == self._ends[-1]:
            return Cut(self._piece.size, 0)
        token = int(np.searchsorted(self._ends, character, side="right"))
        content = self._table.token_bytes(int(self._piece[token]))
        starts = [place for place, byte in enumerate(content) if byte & 0xC0 != 0x80]
        before = int(self._ends[token - 1]) if token else 0
        return Cut(token, starts[character - before])


def tokens_between(
    low: Cut, high: Cut, piece: np.ndarray, tokenizer: Tokenizer, reach: int = MOST_WORD_TOKENS
) -> np.ndarray:
    """Return tokens int64 of the piece between two cuts; exactly its bytes.

    The start of a word is looked for `reach` tokens from a cut; 0: only a token that is cut is tokenized again.
    """
    first = _word_start_after(low, piece, tokenizer, reach)
    last = _word_start_before(high, piece, tokenizer, reach)
    if first > last:  # one word, or neighbouring ones
        return _tokenize(_content(low, high, piece, tokenizer), tokenizer)
    head = _tokenize(_content(low, Cut(first, 0), piece, tokenizer), tokenizer)
    tail = _tokenize(_content(Cut(last, 0), high, piece, tokenizer), tokenizer)
    return np.concatenate([head, piece[first:last], tail])


def _word_start_after(cut: Cut, piece: np.ndarray, tokenizer: Tokenizer, reach: int) -> int:
    """Return the first token at or after the cut whose tokens do not depend on what was cut off."""
    if cut == (0, 0):
        return 0
    start = cut.token + (cut.offset > 0)
    ahead = piece[start : start + reach]
    found = np.flatnonzero(tokenizer.table.starts_word[ahead])
    if found.size:
        return start + int(found[0])
    return int(piece.size) if reach and start + reach >= piece.size else start


def _word_start_before(cut: Cut, piece: np.ndarray, tokenizer: Tokenizer, reach: int) -> int:
    """Return the last token before the cut up to which tokens do not depend on what was cut off.

    The word after it must keep more than its space: spaces at an end are tokenized as one run.
    """
    if cut.token == piece.size:
        return int(piece.size)
    end = cut.token + (cut.offset > 1)
    low = max(0, end - reach)
    found = np.flatnonzero(tokenizer.table.starts_word[piece[low:end]])
    if found.size:
        return low + int(found[-1])
    return 0 if reach and low == 0 else cut.token


def _content(low: Cut, high: Cut, piece: np.ndarray, tokenizer: Tokenizer) -> bytes:
    """Return the bytes between two cuts."""
    if low >= high:
        return b""
    end = high.token + (high.offset > 0)
    content = tokenizer.table.gather(piece[low.token : end]).tobytes()
    if high.offset:
        content = content[: len(content) - int(tokenizer.table.lengths[piece[high.token]]) + high.offset]
    return content[low.offset :]


def _tokenize(content: bytes, tokenizer: Tokenizer) -> np.ndarray:
    """Return tokens int64 of `content`: as text where that is valid UTF-8 and survives, byte by byte where not."""
    if not content:
        return np.zeros(0, dtype=np.int64)
    try:
        ids = tokenizer.encode(content.decode("utf-8"))
    except UnicodeDecodeError:
        ids = []
    if ids and tokenizer.decode_bytes(ids) == content:
        return np.array(ids, dtype=np.int64)
    singles = tokenizer.table.single[np.frombuffer(content, dtype=np.uint8)]
    assert singles.min() >= 0, f"vocabulary has tokens with bytes that it has no token for: {content!r}"
    return singles
