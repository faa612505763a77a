"""One flat order for all parameters of a rank, in buckets that backward fills one after the other.

The order is that of backward: the head, the blocks from last to first, the embedding. So a bucket is full, and can be
reduced, while backward goes on with the next. Within a bucket what is treated alike lies together,

    | split, decayed | copied, decayed | copied, not decayed | split, not decayed | padding |
      `---------- decayed ----------'
                       `--------------- copied ------------'

so that weight decay and the sum of copied gradients over tensor-parallel ranks each cover one contiguous range. Each
replica owns one equal shard of every bucket (ZeRO-1; Rajbhandari et al. 2020). Parameters and shards begin at multiples
of 64 elements: whole vectors, which are updated by the same instructions however they are cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from megacode.layers.spec import Copied, ParamSpec

ALIGNMENT = 64  # elements

Shaped = tuple[ParamSpec, tuple[int, ...]]


@dataclass(frozen=True)
class Segment:
    """The elements `start` .. `stop` of the flat order that are one parameter's local part."""

    spec: ParamSpec
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Bucket:
    """Consecutive `elements` of the flat order that are reduced at once, and the ranges that are treated alike."""

    segments: tuple[Segment, ...]
    elements: range
    decayed: range
    copied: range

    @classmethod
    def of(cls, specs: Sequence[Shaped], start: int, num_shards: int) -> Bucket:
        """Lay out parameters, each given by its spec and local shape, from element `start` on."""
        place = {(False, True): 0, (True, True): 1, (True, False): 2, (False, False): 3}
        ordered = sorted(specs, key=lambda item: place[isinstance(item[0].placement, Copied), item[0].decay])
        segments, at = [], start
        for spec, shape in ordered:
            segments.append(Segment(spec, shape, at, at + math.prod(shape)))
            at = _aligned(segments[-1].stop)
        stop = start + -(-(at - start) // (num_shards * ALIGNMENT)) * num_shards * ALIGNMENT
        decayed = _span(segments, start, lambda spec: spec.decay)
        copied = _span(segments, start, lambda spec: isinstance(spec.placement, Copied))
        return cls(tuple(segments), range(start, stop), decayed, copied)

    def shard(self, index: int, num_shards: int) -> range:
        """The elements that replica `index` owns."""
        share = len(self.elements) // num_shards
        return self.elements[index * share : (index + 1) * share]


@dataclass(frozen=True)
class FlatLayout:
    """The buckets of a rank's parameters, in the order in which backward fills them."""

    buckets: tuple[Bucket, ...]

    @classmethod
    def of(cls, specs: Sequence[Shaped], num_shards: int, bucket_elements: int) -> FlatLayout:
        """Lay out parameters that are given in the order of forward, for `num_shards` equal shards of each bucket.

        A bucket holds at most `bucket_elements`, or one parameter that is larger.
        """
        buckets: list[Bucket] = []
        filling: list[Shaped] = []
        held, at = 0, 0
        for spec, shape in reversed(specs):
            if filling and held + math.prod(shape) > bucket_elements:
                buckets.append(Bucket.of(filling, at, num_shards))
                filling, held, at = [], 0, buckets[-1].elements.stop
            filling.append((spec, shape))
            held += math.prod(shape)
        return cls((*buckets, Bucket.of(filling, at, num_shards)))

    @property
    def total(self) -> int:
        """Elements of the flat order, padding included."""
        return self.buckets[-1].elements.stop

    @property
    def segments(self) -> Iterator[Segment]:
        """Every parameter's, in the flat order."""
        return (segment for bucket in self.buckets for segment in bucket.segments)

    def shards(self, index: int, num_shards: int) -> tuple[range, ...]:
        """The elements that replica `index` owns, by bucket."""
        return tuple(bucket.shard(index, num_shards) for bucket in self.buckets)

    def within(self, parts: Sequence[range]) -> Iterator[tuple[Segment, range]]:
        """The segments that reach into `parts`, one of each bucket, each with the elements that lie in it."""
        for bucket, part in zip(self.buckets, parts, strict=True):
            for segment in bucket.segments:
                common = overlap(range(segment.start, segment.stop), part)
                if common:
                    yield segment, common


def overlap(one: range, other: range) -> range:
    """The elements in both ranges of step 1; empty where there are none."""
    start, stop = max(one.start, other.start), min(one.stop, other.stop)
    return range(start, max(start, stop))


def without(whole: range, hole: range) -> list[range]:
    """What is left of `whole`, in order: up to two ranges, none of them empty."""
    hole = overlap(whole, hole)
    if not hole:
        return [whole] if whole else []
    return [part for part in (range(whole.start, hole.start), range(hole.stop, whole.stop)) if part]


def _span(segments: Sequence[Segment], start: int, wanted: Callable[[ParamSpec], bool]) -> range:
    chosen = [segment for segment in segments if wanted(segment.spec)]
    return range(chosen[0].start, _aligned(chosen[-1].stop)) if chosen else range(start, start)


def _aligned(element: int) -> int:
    return -(-element // ALIGNMENT) * ALIGNMENT
