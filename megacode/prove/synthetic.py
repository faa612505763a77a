"""Made-up training data, where only the computation matters."""

from __future__ import annotations

import numpy as np

from megacode.config.schema import RunConfig
from megacode.data.batches import BatchPlan
from megacode.data.stream.sample import Sample, unweighted

END_OF_TEXT = 0
DOCUMENTS_PER_SAMPLE = 4


class RandomTokens:
    """Stands in for a stream of samples: sample n is uniform random tokens, a pure function of n.

    `has_documents`: one in `sequence` / DOCUMENTS_PER_SAMPLE of them, besides, is END_OF_TEXT.
    """

    def __init__(self, vocab: int, sequence: int, has_documents: bool = False) -> None:
        self.vocab, self.sequence, self.has_documents = vocab, sequence, has_documents

    def sample(self, index: int) -> Sample:
        """Return sample number `index`."""
        random = np.random.default_rng(index)
        tokens = random.integers(self.vocab, size=self.sequence + 1)
        if not self.has_documents:
            return unweighted(tokens)
        ends = random.random(tokens.size) < DOCUMENTS_PER_SAMPLE / self.sequence
        tokens[ends] = END_OF_TEXT
        return unweighted(tokens, document_lengths(tokens))


def document_lengths(tokens: np.ndarray) -> tuple[int, ...]:
    """Return the lengths of the documents in `tokens` [n]: each ends with END_OF_TEXT or with the last token."""
    is_last = tokens == END_OF_TEXT
    is_last[-1] = True
    return tuple(np.diff(np.flatnonzero(is_last), prepend=-1).tolist())


def synthetic_plan(config: RunConfig) -> BatchPlan:
    """The batches of `config`'s training steps, of made-up tokens."""
    data, train = config.data, config.train
    tokens = RandomTokens(config.model.vocab, data.sequence, data.document_mask)
    return BatchPlan(tokens, train.micro_batch, train.global_batch, config.parallel.dp, data.document_mask)
