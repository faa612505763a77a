"""One hash for each row of an array."""

from __future__ import annotations

import numpy as np

from megacode.data.mixing import mixed_all


def row_hashes(block: np.ndarray) -> np.ndarray:
    """Return one 64-bit hash for each row of `block` uint32 [k, n], uint64 [k]."""
    values = np.zeros(block.shape[0], dtype=np.uint64)
    for column in range(block.shape[1]):
        values = mixed_all(values + block[:, column])
    return values
