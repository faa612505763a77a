"""Mixing 64-bit numbers, whole arrays at a time."""

from __future__ import annotations

import numpy as np


def mixed(values: np.ndarray) -> np.ndarray:
    """Return `values` uint64 through splitmix64's finalizer (Steele 2014): each bit reaches every bit; a bijection."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def row_hashes(block: np.ndarray) -> np.ndarray:
    """Return one 64-bit hash for each row of `block` uint32 [k, n], uint64 [k]."""
    values = np.zeros(block.shape[0], dtype=np.uint64)
    for column in range(block.shape[1]):
        values = mixed(values + block[:, column])
    return values
