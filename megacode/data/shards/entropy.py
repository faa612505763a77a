"""The loss of a model that knows only how often each token occurs: what a real model must beat early."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megacode.data.errors import DataError
from megacode.data.shards.indexed import ShardReader


def unigram_entropy(shards: Sequence[ShardReader]) -> float:
    """Return the entropy of the shards' own token frequencies, in nats per token: -sum(p ln p).

    The lowest mean loss of any context-free predictor on exactly these shards.
    Raises DataError for shards without tokens.
    """
    tokens = sum(shard.tokens for shard in shards)
    if not tokens:
        names = ", ".join(str(shard.prefix) for shard in shards)
        raise DataError(f"{names}: holds no tokens, so it has no entropy; tokenize documents first")
    counts = np.zeros(0, dtype=np.int64)
    for shard in shards:
        few, many = sorted((counts, shard.token_counts()), key=len)
        many[: few.size] += few
        counts = many
    share = counts[counts > 0] / tokens
    return float(-(share * np.log(share)).sum())
