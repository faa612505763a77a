"""The loss of a model that knows only how often each token occurs: what a real model must beat early."""

from __future__ import annotations

import numpy as np

from megacode.data.errors import DataError
from megacode.data.indexed import ShardReader


def unigram_entropy(reader: ShardReader) -> float:
    """Return the entropy of the shard's own token frequencies, in nats per token: -sum(p ln p).

    The lowest mean loss of any context-free predictor on exactly this shard.
    Raises DataError for a shard without tokens.
    """
    if not reader.tokens:
        raise DataError(f"{reader.prefix}: holds no tokens, so it has no entropy; tokenize documents first")
    counts = reader.token_counts()
    share = counts[counts > 0] / reader.tokens
    return float(-(share * np.log(share)).sum())
