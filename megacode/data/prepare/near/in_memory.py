"""The clusters of signatures that fit in memory, in one process."""

from __future__ import annotations

import numpy as np

from megacode.console import progress
from megacode.data.prepare.near.bands import band_keys, bands_and_rows
from megacode.data.prepare.near.clusters import clusters
from megacode.data.prepare.near.pairs import pairs_in_band


def near_labels(matrix: np.ndarray, threshold: float) -> np.ndarray:
    """Return the cluster of each of the signatures uint32 [k, permutations], int64 [k]: its lowest member."""
    bands, rows = bands_and_rows(threshold, matrix.shape[1])
    edges = []
    with progress("near duplicates", bands) as advance:
        for band in range(bands):
            edges.append(pairs_in_band(band_keys(matrix, band, rows), matrix, threshold))
            advance(1)
    return clusters(matrix.shape[0], np.concatenate(edges))
