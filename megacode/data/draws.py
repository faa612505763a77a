"""Random numbers addressed by what they decide, not by when they are drawn.

Philox-4x64 (Salmon et al., SC 2011) is a function from (key, counter) to random words, so a draw's address is put in
key and counter and nothing is carried from call to call. Only raw words are used: numpy keeps those stable between
versions, which it does not promise for `Generator.integers` or `permutation`.
"""

from __future__ import annotations

import numpy as np

# Purposes: what keeps draws of the same address apart. A number is never used again for something else.
PERMUTATION = 1
INFILL = 2
BLEND = 4
SHIFT = 5
METADATA = 16
REPOSITORY = 17
COMMIT = 18

_WORD = 1 << 64


def words(seed: int, epoch: int, purpose: int, address: tuple[int, int], count: int) -> np.ndarray:
    """Return `count` words uint64 for (seed, epoch, purpose, address); all numbers in [0, 2^64)."""
    counter = address[1] << 64 | address[0] << 128 | purpose << 192
    return np.random.Philox(key=seed | epoch << 64, counter=counter).random_raw(count)


def happens(word: int, rate: float) -> bool:
    """Return True with probability `rate`; never for 0, always for 1."""
    return (word >> 11) * 2.0**-53 < rate


def below(word: int, bound: int) -> int:
    """Return a whole number in [0, bound), uniform to within bound / 2^64."""
    return word * bound // _WORD
