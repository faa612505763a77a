"""One flat order for all parameters of a rank, so that a reduction, a norm or an update is a few large operations.

The order groups what is treated alike:

    | split, decayed | copied, decayed | copied, not decayed | split, not decayed | padding |
      `---------- decayed ----------'
                       `--------------- copied ------------'

so that weight decay and the sum of copied gradients over tensor-parallel ranks each cover one contiguous range. The
whole is padded to a multiple of the number of replicas, each of which owns one equal shard (ZeRO-1; Rajbhandari et al.
2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from megacode.layers.spec import Copied, ParamSpec


@dataclass(frozen=True)
class Segment:
    """The elements `start` .. `stop` of the flat order that are one parameter's local part."""

    spec: ParamSpec
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class FlatLayout:
    """Where each parameter of a rank lies in the flat order, and the ranges that are treated alike."""

    segments: tuple[Segment, ...]
    total: int
    decayed: range
    copied: range

    @classmethod
    def of(cls, specs: Sequence[tuple[ParamSpec, tuple[int, ...]]], num_shards: int) -> FlatLayout:
        """Lay out parameters, each given by its spec and local shape, for `num_shards` equal shards."""
        place = {(False, True): 0, (True, True): 1, (True, False): 2, (False, False): 3}
        ordered = sorted(specs, key=lambda item: place[isinstance(item[0].placement, Copied), item[0].decay])
        segments, at = [], 0
        for spec, shape in ordered:
            length = 1
            for width in shape:
                length *= width
            segments.append(Segment(spec, shape, at, at + length))
            at += length
        total = -(-at // num_shards) * num_shards
        decayed = _span(segments, lambda spec: spec.decay)
        copied = _span(segments, lambda spec: isinstance(spec.placement, Copied))
        return cls(tuple(segments), total, decayed, copied)

    def shard(self, index: int, num_shards: int) -> range:
        """The elements that replica `index` owns."""
        share = self.total // num_shards
        return range(index * share, (index + 1) * share)

    def within(self, part: range) -> Iterator[tuple[Segment, range]]:
        """The segments that reach into `part`, each with the elements that lie in it."""
        for segment in self.segments:
            common = overlap(range(segment.start, segment.stop), part)
            if common:
                yield segment, common


def overlap(one: range, other: range) -> range:
    """The elements in both ranges of step 1; empty where there are none."""
    start, stop = max(one.start, other.start), min(one.stop, other.stop)
    return range(start, max(start, stop))


def _span(segments: Sequence[Segment], wanted: Callable[[ParamSpec], bool]) -> range:
    chosen = [segment for segment in segments if wanted(segment.spec)]
    return range(chosen[0].start, chosen[-1].stop) if chosen else range(0)
