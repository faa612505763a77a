"""How a source's documents fill samples: cut where a sample is full (StarCoder's way), or whole where they fit.

`Concatenated`: epoch e of a source cuts its circle of tokens into samples from a drawn place on, so that documents
are cut elsewhere each time, and takes them in a drawn order. `BestFit`: the plan that was made with the shard says
which whole documents share a sample (Ding et al., arXiv 2404.10830); only the order is drawn. What is left of a
sample is padding, which counts nothing in the loss.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from megacode.data.draws import PERMUTATION, SHIFT, below, words
from megacode.data.errors import DataError
from megacode.data.stream.circle import TokenCircle
from megacode.data.stream.order import ComputedPermutation
from megacode.data.stream.plan import PackingPlan
from megacode.data.stream.sample import Span


class Packing(Protocol):
    """A source's samples in the order in which a run takes them."""

    samples_per_epoch: int

    def spans(self, index: int) -> list[Span]:
        """Return what sample `index` >= 0 of the source is made of, at most sequence + 1 tokens."""


class Concatenated:
    """Samples of `sequence` + 1 tokens; the last token of one is the first of its neighbour on the circle."""

    def __init__(self, circle: TokenCircle, sequence: int, seed: int, source: int) -> None:
        self.samples_per_epoch = max(1, circle.tokens // sequence)
        self._circle, self._sequence, self._seed, self._source = circle, sequence, seed, source

    def spans(self, index: int) -> list[Span]:
        """Return sample `index`'s parts of documents, sequence + 1 tokens in all."""
        epoch, chosen = _place(self._seed, self._source, index, self.samples_per_epoch)
        shift = below(int(words(self._seed, epoch, SHIFT, (self._source, 0), 1)[0]), self._circle.tokens)
        return self._circle.spans(shift + chosen * self._sequence, self._sequence + 1)


class BestFit:
    """Samples of whole documents, as the shards' plans say; a document that no sample holds comes in pieces."""

    def __init__(self, plans: Sequence[PackingPlan], seed: int, source: int) -> None:
        self._ends = list(accumulate(plan.samples for plan in plans))
        if not self._ends or not self._ends[-1]:
            raise DataError("a packing plan holds no samples; tokenize documents first")
        self.samples_per_epoch = self._ends[-1]
        self._plans, self._seed, self._source = tuple(plans), seed, source

    def spans(self, index: int) -> list[Span]:
        """Return sample `index`'s documents, at most sequence + 1 tokens in all."""
        _, chosen = _place(self._seed, self._source, index, self.samples_per_epoch)
        shard = bisect_right(self._ends, chosen)
        plan = self._plans[shard]
        return [Span(shard, *part) for part in plan.parts(chosen - (self._ends[shard] - plan.samples))]


def _place(seed: int, source: int, index: int, samples_per_epoch: int) -> tuple[int, int]:
    """Return the epoch of a source's sample number `index`, and which of the epoch's samples it is."""
    epoch, place = divmod(index, samples_per_epoch)
    return epoch, ComputedPermutation(seed, epoch, samples_per_epoch, PERMUTATION, source).at(place)
