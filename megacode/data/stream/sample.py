"""One sample: the tokens of a sequence, what each counts in the loss, and which documents they are from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """Tokens `start` .. `stop` of document `document` of shard `shard` of a source."""

    shard: int
    document: int
    start: int
    stop: int


class Origin(NamedTuple):
    """Where a sample is from: the source, which of the source's samples it is, and in which of its epochs."""

    source: int
    index: int
    epoch: int


@dataclass(frozen=True)
class Sample:
    """`sequence` + 1 tokens, of which each but the first is predicted.

    `tokens` int64 [sequence + 1]; `weights` float32 [sequence + 1], what predicting the token counts in the loss (the
    first place's is not used); `lengths`: tokens of each document's part, padding the last, in sum sequence + 1.
    """

    tokens: np.ndarray
    weights: np.ndarray
    lengths: tuple[int, ...]


def unweighted(tokens: np.ndarray, lengths: tuple[int, ...] = ()) -> Sample:
    """Return the sample of `tokens` [sequence + 1] that all count 1; one document unless `lengths` says otherwise."""
    return Sample(tokens, np.ones(tokens.size, dtype=np.float32), lengths or (tokens.size,))
