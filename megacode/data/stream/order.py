"""A seeded permutation that is computed, not stored: any place of any epoch at once, whatever the count.

A Feistel network on pairs (left, right) of [0, a) x [0, b), a x b the least product of near-square factors that
reaches `count`, its rounds adding modulo a and b in turn (Black and Rogaway, CT-RSA 2002, section 5); the few results
beyond `count` are put through again. So an epoch over 10^12 samples needs no array, no file and no time to begin.
"""

from __future__ import annotations

import math

import numpy as np

from megacode.data.draws import words
from megacode.data.mixing import mixed, mixed_all

ROUNDS = 8


class ComputedPermutation:
    """A permutation of [0, count) drawn for (seed, epoch, purpose), all numbers in [0, 2^64)."""

    def __init__(self, seed: int, epoch: int, count: int, purpose: int, address: int = 0) -> None:
        assert count > 0, f"a permutation needs at least one element; count is {count}"
        self.count = count
        self._wide = math.isqrt(count - 1) + 1
        self._high = -(-count // self._wide)
        self._keys = [int(word) for word in words(seed, epoch, purpose, (address, 0), ROUNDS)]

    def at(self, index: int) -> int:
        """Return where `index`, in [0, count), goes: a number in [0, count)."""
        assert 0 <= index < self.count, f"index must be in [0, {self.count}); is {index}"
        while True:
            left, right = index % self._wide, index // self._wide
            for place, key in enumerate(self._keys):
                if place % 2:
                    right = (right + mixed(left ^ key)) % self._high
                else:
                    left = (left + mixed(right ^ key)) % self._wide
            index = left + right * self._wide
            if index < self.count:
                return index

    def at_all(self, indices: np.ndarray) -> np.ndarray:
        """Return `at` of each of `indices`, int64 [n]."""
        values = indices.astype(np.uint64)
        open_places = np.arange(values.size)
        wide, high = np.uint64(self._wide), np.uint64(self._high)
        while open_places.size:
            left, right = values[open_places] % wide, values[open_places] // wide
            for place, key in enumerate(self._keys):
                # Sums of a 64-bit hash and a small number would wrap, so the hash is reduced first.
                if place % 2:
                    right = (right + mixed_all(left ^ np.uint64(key)) % high) % high
                else:
                    left = (left + mixed_all(right ^ np.uint64(key)) % wide) % wide
            values[open_places] = left + right * wide
            open_places = open_places[values[open_places] >= np.uint64(self.count)]
        return values.astype(np.int64)
