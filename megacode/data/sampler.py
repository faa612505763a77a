"""The endless stream of training tokens, cut into samples: sample n is a pure function of (seed, n).

Epoch e is the shard's documents in the order of a permutation drawn for (seed, e), each rearranged by FIM as a whole,
one behind the other. Epochs follow each other without a gap. FIM keeps every document's length, so where a token
sits needs lengths only, no preprocessing pass and no saved state.

Limits: an epoch's order and cumulative lengths are kept in memory, 16 bytes a document.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from megacode.data.draws import permutation
from megacode.data.errors import DataError
from megacode.data.fim import FimKey, FimPolicy, apply_fim
from megacode.data.indexed import ShardReader
from megacode.data.tokenizer import Tokenizer

CACHED_EPOCHS = 3
CACHED_DOCUMENTS = 64
VALIDATION_SEED = 0

Key = TypeVar("Key")
Value = TypeVar("Value")


class SampleStream:
    """Samples of `sequence` + 1 tokens, any index at any time.

    `sequence` in tokens; `samples_per_epoch`: samples that lie whole in the first epoch.
    """

    def __init__(
        self, reader: ShardReader, sequence: int, seed: int, fim: FimPolicy | None, tokenizer: Tokenizer | None = None
    ) -> None:
        """Bind the stream to a shard; `tokenizer` may be None when `fim` is.

        Raises DataError for a shard without tokens, a `sequence` below 1, a negative `seed`, `fim` without `tokenizer`.
        """
        if not reader.tokens:
            raise DataError(f"{reader.prefix}: holds no tokens; tokenize documents first")
        if sequence < 1:
            raise DataError(f"sequence must be at least 1 token; found {sequence}")
        if not 0 <= seed < 1 << 64:
            raise DataError(f"seed must be in [0, 2^64); found {seed}")
        if fim is not None and tokenizer is None:
            raise DataError("fim needs the tokenizer that made the shard; pass tokenizer, or fim = None")
        self.reader = reader
        self.sequence = sequence
        self.seed = seed
        self.fim = fim
        self.tokenizer = tokenizer
        self.samples_per_epoch = max(0, (reader.tokens - 1) // sequence)
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._documents: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def sample(self, index: int) -> np.ndarray:
        """Return stream tokens [index * sequence, index * sequence + sequence + 1), int64 [sequence + 1].

        The last token of a sample is the first of the next: position i predicts position i + 1.
        """
        if index < 0:
            raise DataError(f"sample index must be at least 0; found {index}")
        out = np.empty(self.sequence + 1, dtype=np.int64)
        filled = 0
        epoch, offset = divmod(index * self.sequence, self.reader.tokens)
        while filled < out.size:
            order, ends = self._epoch(epoch)
            place = int(np.searchsorted(ends, offset, side="right"))
            while filled < out.size and place < order.size:
                document = self._document(epoch, int(order[place]))
                start = offset - (int(ends[place]) - document.size)
                part = document[start : start + out.size - filled]
                out[filled : filled + part.size] = part
                filled, offset, place = filled + part.size, offset + part.size, place + 1
            epoch, offset = epoch + 1, 0
        return out

    def epochs_of(self, num_samples: int) -> float:
        """Return how many times the shard is read by the first `num_samples` samples."""
        return num_samples * self.sequence / self.reader.tokens

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the epoch's document order and the stream position, within the epoch, where each document ends."""

        def compute() -> tuple[np.ndarray, np.ndarray]:
            order = permutation(self.seed, epoch, self.reader.documents)
            return order, np.cumsum(self.reader.lengths[order], dtype=np.int64)

        return remember(self._epochs, epoch, CACHED_EPOCHS, compute)

    def _document(self, epoch: int, document: int) -> np.ndarray:
        """Return a document's tokens as this epoch sees them."""
        if self.fim is None:
            return self.reader.document(document)
        policy, tokenizer = self.fim, self.tokenizer
        assert tokenizer is not None, "checked in __init__"

        def compute() -> np.ndarray:
            key = FimKey(self.seed, epoch, document)
            return apply_fim(self.reader.document(document), key, policy, tokenizer).tokens

        return remember(self._documents, (epoch, document), CACHED_DOCUMENTS, compute)


def validation_stream(
    reader: ShardReader, sequence: int, tokenizer: Tokenizer, fim: FimPolicy | None = None
) -> SampleStream:
    """Return the frozen stream for evaluation: the same order and cuts whatever the run's seed, so losses compare.

    Read samples [0, samples_per_epoch), every evaluation the same ones. `fim` None scores left-to-right;
    FimPolicy(rate=1.0, spm_rate=0.0 or 1.0) scores one infilling order.
    """
    return SampleStream(reader, sequence, VALIDATION_SEED, fim, tokenizer)


def remember(cache: OrderedDict[Key, Value], key: Key, bound: int, compute: Callable[[], Value]) -> Value:
    """Return cache[key], computed when missing; the least recently used entry goes when there are over `bound`."""
    if key not in cache:
        cache[key] = compute()
        if len(cache) > bound:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]
