"""Made-up training data, where only the computation matters."""

from __future__ import annotations

from typing import Any

import numpy as np

from megacode.config.schema import RunConfig
from megacode.data.batches import BatchPlan

END_OF_TEXT = 0
DOCUMENTS_PER_SAMPLE = 4


class RandomTokens:
    """Stands in for a stream of samples: sample n is uniform random tokens, a pure function of n.

    `has_documents`: one in `sequence` / DOCUMENTS_PER_SAMPLE of them, besides, is END_OF_TEXT.
    """

    def __init__(self, vocab: int, sequence: int, has_documents: bool = False) -> None:
        self.vocab, self.sequence, self.has_documents = vocab, sequence, has_documents

    def sample(self, index: int) -> np.ndarray:
        """int64 [sequence + 1]."""
        random = np.random.default_rng(index)
        tokens = random.integers(self.vocab, size=self.sequence + 1)
        if self.has_documents:
            tokens[random.random(tokens.size) < DOCUMENTS_PER_SAMPLE / self.sequence] = END_OF_TEXT
        return tokens


def synthetic_plan(config: RunConfig) -> BatchPlan:
    """The batches of `config`'s training steps, of made-up tokens."""
    tokens: Any = RandomTokens(config.model.vocab, config.data.sequence, config.data.document_mask)
    end_of_text = END_OF_TEXT if config.data.document_mask else None
    return BatchPlan(tokens, config.train.micro_batch, config.train.global_batch, config.parallel.dp, end_of_text)
