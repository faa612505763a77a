"""Which pairs to compare: documents whose signatures agree in a whole band of rows become candidates.

Bands and rows are chosen so that the error at the threshold is least (as datasketch does; bigcode-dataset's 25 x 10).
"""

from __future__ import annotations

import numpy as np

from megacode.data.prepare.near.hashing import row_hashes


def bands_and_rows(threshold: float, permutations: int) -> tuple[int, int]:
    """Return (bands, rows), bands x rows <= permutations, with the least total error at `threshold`.

    The error is the area of false positives below the threshold plus that of false negatives above it, where a pair
    of similarity t becomes a candidate with probability 1 - (1 - t^rows)^bands.
    """
    width = 0.001
    grid = np.arange(0.0, 1.0, width) + width / 2
    above = grid >= threshold
    best, least = (1, 1), np.inf
    for bands in range(1, permutations + 1):
        for rows in range(1, permutations // bands + 1):
            candidate = 1 - (1 - grid**rows) ** bands
            error = float(np.where(above, 1 - candidate, candidate).sum() * width)
            if error < least:
                best, least = (bands, rows), error
    return best


def band_keys(matrix: np.ndarray, band: int, rows: int) -> np.ndarray:
    """Return a 64-bit hash of band `band` (from 0, `rows` places each) of every signature, uint64 [k].

    `matrix` uint32 [k, permutations], also a memory map: only the band's columns are read.
    """
    return row_hashes(np.ascontiguousarray(matrix[:, band * rows : (band + 1) * rows]))
