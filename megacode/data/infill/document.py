"""One document rearranged: each piece of its code is cut at two places and put into PSM or SPM order, or left.

    PSM  <fim_prefix> P <fim_suffix> S <fim_middle> M         SPM  <fim_prefix> <fim_suffix> S <fim_middle> P M
                                          the paper's first variant of SPM  <fim_suffix> S <fim_prefix> P <fim_middle> M

A document keeps its length in tokens, so packing stays arithmetic: the three sentinels and the words tokenized again
are paid for by cutting the far end of the suffix. The middle and the special token behind it are never cut; a suffix
that would be used up leaves the piece left to right. Source: Bavarian et al., arXiv 2207.14255, sections 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from megacode.data.draws import INFILL, below, happens, words
from megacode.data.errors import DataError
from megacode.data.infill.cuts import MOST_WORD_TOKENS, Characters, Cut, tokens_between
from megacode.data.infill.pieces import Piece, PieceFinder
from megacode.data.infill.policy import LEFT_TO_RIGHT, PSM, SPM, UNPAID, FimPolicy
from megacode.data.infill.syntax import SyntaxCuts
from megacode.data.tokenizers.tokenizer import Tokenizer

SENTINELS_PER_PIECE = 3

_REPOSITORY_DRAW = (1 << 64) - 1  # no piece has this number


class FimKey(NamedTuple):
    """What a document's infilling depends on, besides the policy: whole numbers in [0, 2^64)."""

    seed: int
    epoch: int
    document: int


@dataclass(frozen=True)
class FimResult:
    """`tokens` [n], n as given; `orders`: what became of each piece that the sample shows (names in policy.py).

    `weights` float32 [n], what predicting each token counts in the loss; None: 1 for all.
    """

    tokens: np.ndarray
    orders: tuple[str, ...]
    weights: np.ndarray | None = None


class Infiller:
    """Rearranges documents of one tokenizer by one policy; `language` names their syntax where a piece does not."""

    def __init__(self, policy: FimPolicy, tokenizer: Tokenizer, language: str = "") -> None:
        """Raises DataError when `policy.by_syntax` is asked for and the parser library is not installed."""
        self.policy, self.tokenizer = policy, tokenizer
        self._finder = PieceFinder(tokenizer)
        self._syntax = SyntaxCuts(language) if policy.by_syntax else None
        self._sentinels = (tokenizer.fim_prefix, tokenizer.fim_middle, tokenizer.fim_suffix)

    def apply(self, tokens: np.ndarray, key: FimKey, visible: tuple[int, int] | None = None) -> FimResult:
        """Rearrange one document [n] that ends in end-of-text; same arguments, same result.

        `visible`: the tokens that the sample holds, all unless given. What it shows of a piece is rearranged by itself,
        so that a middle, what surrounds it and the token that ends it are in one sample; where the piece goes on in
        the next, end-of-text is put behind the middle. Outside of `visible` the tokens stay as they are.
        A document that holds infilling sentinels already is left as it is. Raises DataError when it does not end in
        end-of-text.
        """
        if not tokens.size or tokens[-1] != self.tokenizer.end_of_text:
            found = self.tokenizer.end_of_text
            raise DataError(f"document {key.document} must end in end-of-text ({found}); tokenize again")
        first, end = visible or (0, tokens.size)
        specials = self._finder.specials(tokens)
        shown = [
            (index, piece, slice(max(piece.start, first), min(piece.stop, end)))
            for index, piece in enumerate(self._finder.pieces(tokens, specials))
            if piece.stop > first and piece.start < end
        ]
        if np.isin(tokens[specials], self._sentinels).any() or not self._is_candidate(tokens, key):
            return FimResult(tokens, (LEFT_TO_RIGHT,) * len(shown))
        out = tokens.astype(np.int64)
        weights = np.ones(tokens.size, dtype=np.float32) if self.policy.middle_only else None
        orders = []
        for index, piece, part in shown:
            # What one sample shows of a piece decides for itself; a whole piece has the number it has alone.
            address = (key.document, index | part.start - piece.start << 32)
            draw = words(key.seed, key.epoch, INFILL, address, 4).tolist()
            closing = [] if piece.stop < end else [self.tokenizer.end_of_text]
            order, filled, counted = self._rearranged(out[part], closing, draw, self._path(tokens, piece))
            orders.append(order)
            if filled is not None:
                out[part] = filled
                if weights is not None:
                    weights[part.start : part.stop - counted] = 0.0
        return FimResult(out, tuple(orders), weights)

    def _is_candidate(self, tokens: np.ndarray, key: FimKey) -> bool:
        """Return whether the document's pieces may be rearranged at all: a repository's by a draw of its own."""
        if not self._finder.is_repository(tokens):
            return True
        word = int(words(key.seed, key.epoch, INFILL, (key.document, _REPOSITORY_DRAW), 1)[0])
        return happens(word, self.policy.repository_rate)

    def _rearranged(
        self, piece: np.ndarray, closing: list[int], draw: list[int], path: str
    ) -> tuple[str, np.ndarray | None, int]:
        """Return what becomes of a piece [n], n >= 1, its new tokens [n] or None, and how many of them end it.

        `closing` is put behind the middle; middle and closing are what ends it.
        """
        if not happens(draw[0], self.policy.rate):
            return LEFT_TO_RIGHT, None, 0
        low, high = self._cuts(piece, draw[2:], path)
        prefix, middle, suffix, growth = self._parts(piece, low, high, MOST_WORD_TOKENS)
        if growth < 0:  # tokens that no tokenizer would choose shrink; then those that are cut are all that changes
            prefix, middle, suffix, growth = self._parts(piece, low, high, 0)
        growth += len(closing)
        if suffix.size <= growth:  # a suffix eaten up would teach that nothing follows
            return UNPAID, None, 0
        suffix = suffix[: suffix.size - growth]
        begin, fill, end = ([sentinel] for sentinel in self._sentinels)
        if not happens(draw[1], self.policy.spm_rate):
            order, parts = PSM, [begin, prefix, end, suffix, fill, middle]
        elif self.policy.spm_variant == 1:
            order, parts = SPM, [end, suffix, begin, prefix, fill, middle]
        else:
            order, parts = SPM, [begin, end, suffix, fill, prefix, middle]
        return order, np.concatenate([*parts, np.array(closing, dtype=np.int64)]), middle.size + len(closing)

    def _parts(
        self, piece: np.ndarray, low: Cut, high: Cut, reach: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Return prefix, middle and suffix in tokens, and how much longer they are with their sentinels."""
        ends = (Cut(0, 0), low, high, Cut(piece.size, 0))
        prefix, middle, suffix = (
            tokens_between(*ends[place : place + 2], piece, self.tokenizer, reach) for place in range(3)
        )
        return prefix, middle, suffix, prefix.size + middle.size + suffix.size + SENTINELS_PER_PIECE - piece.size

    def _cuts(self, piece: np.ndarray, draw: list[int], path: str) -> tuple[Cut, Cut]:
        """Return where the middle begins and ends: two uniform borders between characters, or around syntax."""
        characters = Characters(piece, self.tokenizer)
        low, high = sorted(characters.cut(below(word, characters.borders)) for word in draw)
        if self._syntax is not None:
            return self._syntax.widen(low, high, piece, self.tokenizer, path)
        return low, high

    def _path(self, tokens: np.ndarray, piece: Piece) -> str:
        """Return the metadata line before a piece, which ends in the file's name; only syntax needs it."""
        if self._syntax is None or not piece.start:
            return ""
        special = np.flatnonzero(self.tokenizer.table.special[tokens[: piece.start]])
        first = int(special[-1]) + 1 if special.size else 0
        return self.tokenizer.decode(tokens[first : piece.start].tolist()).strip()
