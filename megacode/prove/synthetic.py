"""Made-up training data, where only the computation matters."""

from __future__ import annotations

import numpy as np


class RandomTokens:
    """Stands in for a stream of samples: sample n is uniform random tokens, a pure function of n."""

    def __init__(self, vocab: int, sequence: int) -> None:
        self.vocab, self.sequence = vocab, sequence

    def sample(self, index: int) -> np.ndarray:
        """int64 [sequence + 1]."""
        return np.random.default_rng(index).integers(self.vocab, size=self.sequence + 1)
