"""The bytes of every token, in arrays, so that a document's bytes are one numpy gather instead of a loop.

`blob` is all token bytes end to end, and `offsets` where each token's bytes start in it. A byte-level vocabulary
writes each byte as one printable character (GPT-2's table), which is undone here once for the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

SPACE = 0x20


def byte_of_symbol() -> dict[str, int]:
    """Return GPT-2's table from printable symbol to byte: 256 entries, one per byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


def byte_level_pieces(vocabulary: Mapping[str, int], special: Mapping[str, int]) -> list[bytes]:
    """Return every id's bytes: special tokens' literal text, none for ids that the vocabulary leaves out.

    Raises KeyError when an ordinary token has a symbol that is not byte-level.
    """
    symbols = byte_of_symbol()
    pieces = [b""] * (max(vocabulary.values()) + 1)
    for text, token in vocabulary.items():
        pieces[token] = text.encode() if text in special else bytes([symbols[symbol] for symbol in text])
    return pieces


class TokenTable:
    """Token bytes of one vocabulary.

    `blob` uint8 [total bytes], `offsets` int64 [vocab + 1], `lengths` int64 [vocab] in bytes, `special` bool [vocab],
    `single` int64 [256]: the token of each single byte, -1 where the vocabulary has none.
    `character_starts` int64 [vocab]: how many of a token's bytes begin a UTF-8 character.
    `starts_word` bool [vocab]: tokens that only ever begin a pre-token of GPT-2's pattern, a space and then what is no
    space; so the text before such a token never changes how it is split. All False for other splitters.
    """

    def __init__(self, pieces: Sequence[bytes], special: Collection[int], splits_words: bool) -> None:
        """Build from every id's bytes, the special ids, and whether the tokenizer splits by GPT-2's pattern."""
        self.blob = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        self.lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
        self.special = np.zeros(len(pieces), dtype=bool)
        self.special[sorted(special)] = True
        self.single = np.full(256, -1, dtype=np.int64)
        for token in np.flatnonzero((self.lengths == 1) & ~self.special).tolist():
            self.single[pieces[token][0]] = token
        before = np.concatenate([[0], np.cumsum((self.blob & 0xC0) != 0x80)]).astype(np.int64)
        self.character_starts = before[self.offsets[1:]] - before[self.offsets[:-1]]
        words = [splits_words and _starts_word(piece) for piece in pieces]
        self.starts_word = np.array(words, dtype=bool) & ~self.special

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token."""
        return self.blob[self.offsets[token] : self.offsets[token + 1]].tobytes()

    def gather(self, tokens: np.ndarray) -> np.ndarray:
        """Return the bytes of `tokens` (any integer dtype, [n]) end to end, uint8 [bytes]."""
        lengths = self.lengths[tokens]
        starts = np.cumsum(lengths) - lengths
        shift = np.repeat(self.offsets[tokens] - starts, lengths)
        return self.blob[shift + np.arange(shift.size)]


def _starts_word(piece: bytes) -> bool:
    """Return whether `piece` is a space and then a whole character that is no white space.

    Half a character may be half a wide space, which GPT-2's pattern keeps with the spaces around it.
    """
    if len(piece) < 2 or piece[0] != SPACE:
        return False
    character = piece[1:5].decode("utf-8", errors="replace")[0]
    return character != "\ufffd" and not character.isspace()
