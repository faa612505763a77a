"""Infilling undone: what an audit and a test hold rearranged documents against."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from megacode.data.errors import DataError
from megacode.data.infill.policy import PSM, SPM
from megacode.data.tokenizers.tokenizer import Tokenizer


class Arranged(NamedTuple):
    """A rearranged piece at tokens `start` .. `stop`; prefix, middle and suffix as tokens, and which order it is in."""

    start: int
    stop: int
    order: str
    prefix: np.ndarray
    middle: np.ndarray
    suffix: np.ndarray


def arranged_pieces(tokens: np.ndarray, tokenizer: Tokenizer) -> list[Arranged]:
    """Return the rearranged pieces of tokens [n], in order.

    Raises DataError when the sentinels are not in the order of PSM or of either variant of SPM.
    """
    special = np.flatnonzero(tokenizer.table.special[tokens])
    begin, end, fill = tokenizer.fim_prefix, tokenizer.fim_suffix, tokenizer.fim_middle
    places = special[np.isin(tokens[special], (begin, end, fill))]
    found = tokens[places].tolist()
    if places.size % 3 or any(
        tuple(found[k : k + 3]) not in ((begin, end, fill), (end, begin, fill)) for k in range(0, len(found), 3)
    ):
        raise DataError(
            f"fim sentinels must come as prefix, suffix, middle or suffix, prefix, middle; found {found[:9]}"
        )
    pieces = []
    for first, second, third in places.reshape(-1, 3).tolist():
        after = special[np.searchsorted(special, third, side="right") :]
        stop = int(after[0]) if after.size else tokens.size
        one, other, rest = tokens[first + 1 : second], tokens[second + 1 : third], tokens[third + 1 : stop]
        if tokens[first] == end:
            pieces.append(Arranged(first, stop, SPM, other, rest, one))
        elif second == first + 1:
            # The second variant of SPM has no sentinel between prefix and middle; PSM with an empty prefix reads alike.
            pieces.append(Arranged(first, stop, SPM, one, rest, other))
        else:
            pieces.append(Arranged(first, stop, PSM, one, rest, other))
    return pieces


def invert_fim(tokens: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Return the document with every rearranged piece back in reading order, sentinels removed.

    Byte for byte the original, less what was cut from the ends of suffixes. Raises DataError as `arranged_pieces`.
    """
    out, done = [], 0
    for piece in arranged_pieces(tokens, tokenizer):
        out += [tokens[done : piece.start], piece.prefix, piece.middle, piece.suffix]
        done = piece.stop
    return np.concatenate([*out, tokens[done:]])
