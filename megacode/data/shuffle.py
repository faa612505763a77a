"""Samples in a shuffled order, so that a batch is drawn from the whole corpus and not from one long document.

Neighbouring samples of a stream come from the same document. Here the samples are taken block by block, an epoch's
worth or a million at the most, each block in an order drawn for (seed, block): still a pure function of the sample's
number, and every sample comes once.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from megacode.data.draws import SHUFFLE, permutation
from megacode.data.errors import DataError
from megacode.data.indexed import ShardReader
from megacode.data.sampler import SampleStream, remember

MOST_SAMPLES_IN_A_BLOCK = 1 << 20
CACHED_BLOCKS = 2


class ShuffledStream:
    """The samples of `stream` in a seeded order; any index at any time."""

    def __init__(self, stream: SampleStream) -> None:
        self._stream = stream
        self._block = max(1, min(stream.samples_per_epoch, MOST_SAMPLES_IN_A_BLOCK))
        self._orders: OrderedDict[int, np.ndarray] = OrderedDict()

    @property
    def reader(self) -> ShardReader:
        """The shard that is read."""
        return self._stream.reader

    def sample(self, index: int) -> np.ndarray:
        """Sample number `index` of the shuffled order, int64 [sequence + 1]. Raises DataError for a negative index."""
        if index < 0:
            raise DataError(f"sample index must be at least 0; found {index}")
        block, place = divmod(index, self._block)

        def order() -> np.ndarray:
            return permutation(self._stream.seed, block, self._block, SHUFFLE)

        chosen = int(remember(self._orders, block, CACHED_BLOCKS, order)[place])
        return self._stream.sample(block * self._block + chosen)
