"""The endless stream of a run's samples: number n -> source -> documents -> fill-in-the-middle -> tokens.

Every step is a function of (seed, n), the shards and the configuration. Nothing is carried from sample to sample, so
any rank, worker or resumed run computes any sample by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from megacode.data.errors import DataError
from megacode.data.infill import FimKey, FimResult, Infiller
from megacode.data.shards.indexed import ShardReader
from megacode.data.stream.blend import Blend
from megacode.data.stream.circle import TokenCircle
from megacode.data.stream.packing import BestFit, Concatenated, Packing
from megacode.data.stream.plan import PackingPlan
from megacode.data.stream.sample import Origin, Sample, Span


@dataclass(frozen=True)
class SourceShards:
    """A source of a run: its `name`, shards in order, and what rearranges its documents, if anything does.

    `pad`: the token that fills what packing leaves free and where removed documents were.
    """

    name: str
    shards: Sequence[ShardReader]
    pad: int
    infillers: Sequence[Infiller | None] = field(default=())

    def infiller(self, shard: int) -> Infiller | None:
        """What rearranges the documents of a shard."""
        return self.infillers[shard] if self.infillers else None


class SampleStream:
    """Samples of `sequence` + 1 tokens, any number at any time.

    `sources` as given; `packings`: each source's order of samples.
    """

    def __init__(
        self, sources: Sequence[SourceShards], blend: Blend, sequence: int, seed: int, packing: str = "concatenate"
    ) -> None:
        """Bind the stream to its shards; `packing`: "concatenate", or "best-fit" where the shards have plans.

        Raises DataError for a source without tokens, a `sequence` below 1, a `seed` out of range, another number of
        sources than the blend's, and a missing plan.
        """
        if sequence < 1:
            raise DataError(f"sequence must be at least 1 token; found {sequence}")
        if not 0 <= seed < 1 << 64:
            raise DataError(f"seed must be in [0, 2^64); found {seed}")
        if len(sources) != blend.sources:
            raise DataError(
                f"the blend is of {blend.sources} sources, the stream has {len(sources)}; name every source"
            )
        self.sources, self.blend, self.sequence, self.seed = tuple(sources), blend, sequence, seed
        self.packings = [_packing(packing, one, sequence, seed, place) for place, one in enumerate(sources)]

    @property
    def names(self) -> tuple[str, ...]:
        """The sources' names."""
        return tuple(source.name for source in self.sources)

    def sample(self, index: int) -> Sample:
        """Return sample number `index` of the run. Raises DataError for a negative one."""
        origin = self.origin(index)
        spans = self.packings[origin.source].spans(origin.index)
        source = self.sources[origin.source]
        size = self.sequence + 1
        tokens = np.full(size, source.pad, dtype=np.int64)
        weights = np.zeros(size, dtype=np.float32)
        filled = 0
        for span in spans:
            part = slice(filled, filled + span.stop - span.start)
            result = self.document(origin, span)
            if result is not None:
                tokens[part] = result.tokens[span.start : span.stop]
                weights[part] = 1.0 if result.weights is None else result.weights[span.start : span.stop]
                if span.start and filled:
                    weights[filled] = 0.0  # it goes on from a sample before: its first token was predicted there
            filled = part.stop
        lengths = [span.stop - span.start for span in spans] + [size - filled] * (filled < size)
        return Sample(tokens, weights, tuple(lengths))

    def origin(self, index: int) -> Origin:
        """Return which sample of which source number `index` is. Raises DataError for a negative one."""
        if index < 0:
            raise DataError(f"sample index must be at least 0; found {index}")
        source, own = self.blend.source_of(index)
        return Origin(source, own, own // self.packings[source].samples_per_epoch)

    def spans(self, index: int) -> list[Span]:
        """Return the documents' parts that sample number `index` is made of."""
        origin = self.origin(index)
        return self.packings[origin.source].spans(origin.index)

    def document(self, origin: Origin, span: Span) -> FimResult | None:
        """Return the span's document, whole, as its sample sees it; None where it was removed from the shard."""
        source = self.sources[origin.source]
        reader = source.shards[span.shard]
        if reader.is_removed(span.document):
            return None
        infiller = source.infiller(span.shard)
        stored = reader.document(span.document)
        if infiller is None:
            return FimResult(stored, ())
        number = origin.source << 48 | span.shard << 32 | span.document
        return infiller.apply(stored, FimKey(self.seed, origin.epoch, number), (span.start, span.stop))

    def epochs(self, samples: int) -> list[float]:
        """Return how many times each source is read by the first `samples` samples."""
        cursors = self.blend.cursors(samples)
        return [count / packing.samples_per_epoch for count, packing in zip(cursors, self.packings, strict=True)]


def _packing(kind: str, source: SourceShards, sequence: int, seed: int, place: int) -> Packing:
    """Return the source's order of samples."""
    if kind == "best-fit":
        return BestFit([PackingPlan(shard, sequence) for shard in source.shards], seed, place)
    return Concatenated(TokenCircle(source.shards), sequence, seed, place)
