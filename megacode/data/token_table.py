"""The bytes of every token, in arrays, so that a document's bytes are one numpy gather instead of a loop.

A byte-level vocabulary writes each byte as one printable character (GPT-2's table); undoing that once for the whole
vocabulary gives `blob`, all token bytes end to end, and `offsets`, where each token's bytes start in it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def byte_of_symbol() -> dict[str, int]:
    """Return GPT-2's table from printable symbol to byte: 256 entries, one per byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


class TokenTable:
    """Token bytes of one vocabulary.

    `blob` uint8 [total bytes], `offsets` int64 [vocab + 1], `lengths` int64 [vocab] in bytes, `special` bool [vocab],
    `single` int64 [256]: the token of each single byte, -1 where the vocabulary has none.
    Special tokens' bytes are their literal text. Ids that the vocabulary leaves out have no bytes.
    """

    def __init__(self, vocabulary: Mapping[str, int], special: Mapping[str, int]) -> None:
        """Build from `vocabulary` (token text to id, special tokens included) and `special` (text to id).

        Raises KeyError when an ordinary token has a symbol that is not byte-level.
        """
        symbols = byte_of_symbol()
        ids = max(vocabulary.values()) + 1
        pieces = [b""] * ids
        for text, token in vocabulary.items():
            pieces[token] = text.encode() if text in special else bytes([symbols[symbol] for symbol in text])
        self.blob = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        self.lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
        self.special = np.zeros(ids, dtype=bool)
        self.special[list(special.values())] = True
        self.single = np.full(256, -1, dtype=np.int64)
        for token, piece in enumerate(pieces):
            if len(piece) == 1 and not self.special[token]:
                self.single[piece[0]] = token

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token."""
        return self.blob[self.offsets[token] : self.offsets[token + 1]].tobytes()

    def gather(self, tokens: np.ndarray) -> np.ndarray:
        """Return the bytes of `tokens` (any integer dtype, [n]) end to end, uint8 [bytes]."""
        lengths = self.lengths[tokens]
        starts = np.cumsum(lengths) - lengths
        shift = np.repeat(self.offsets[tokens] - starts, lengths)
        return self.blob[shift + np.arange(shift.size)]
