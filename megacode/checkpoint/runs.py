"""Where a wanted stretch of a tensor lies in a stored one: runs of consecutive elements, and what to read for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from megacode.checkpoint.coverage import Bounds, Stretch


class Run(NamedTuple):
    """`length` elements: from element `source` of the stored part, to element `target` of the wanted stretch."""

    source: int
    target: int
    length: int


@dataclass(frozen=True)
class Window:
    """Blocks `first` .. `stop` that are read at once, and the runs that lie in them."""

    first: int
    stop: int
    runs: tuple[Run, ...]


def common_runs(wanted: Stretch, stored: Stretch) -> list[Run]:
    """The elements that both hold, in order."""
    common = tuple(
        (max(low, low_too), min(high, high_too))
        for (low, high), (low_too, high_too) in zip(wanted.bounds, stored.bounds, strict=True)
    )
    if any(low >= high for low, high in common):
        return []
    # The innermost dims that all three have in full lie together; with a part of the next one they make up a run.
    inner = len(common)
    while inner and common[inner - 1] == wanted.bounds[inner - 1] == stored.bounds[inner - 1]:
        inner -= 1
    outer = max(inner - 1, 0)
    length = math.prod(high - low for low, high in common[outer:])
    target = _offsets(common, wanted.bounds, outer) - wanted.start
    source = _offsets(common, stored.bounds, outer)
    low = np.maximum(0, np.maximum(-target, stored.start - source))
    high = np.minimum(length, np.minimum(wanted.stop - wanted.start - target, stored.stop - source))
    there = high > low
    columns = ((source + low)[there], (target + low)[there], (high - low)[there])
    return [Run(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _offsets(common: Bounds, part: Bounds, outer: int) -> np.ndarray:
    """Where in the flat order of `part` each row of `common` begins, for all rows along its first `outer` dims."""
    extents = [high - low for low, high in part]
    strides = [math.prod(extents[dim + 1 :]) for dim in range(len(extents))]
    corner = sum((low - first) * stride for (low, _), (first, _), stride in zip(common, part, strides, strict=True))
    offsets = np.array([corner], dtype=np.int64)
    for dim in range(outer):
        steps = np.arange(common[dim][1] - common[dim][0], dtype=np.int64) * strides[dim]
        offsets = np.add.outer(offsets, steps).reshape(-1)
    return offsets


def windows(runs: Sequence[Run], block: int, most: int) -> Iterator[Window]:
    """What to read for runs that are in order: no block twice, at most about `most` elements at once."""
    blocks_at_once = max(1, most // block)
    first, stop, held = 0, 0, list[Run]()
    for source, target, length in runs:
        while length:
            own = source // block
            if held and (own > stop or own >= first + blocks_at_once):
                yield Window(first, stop, tuple(held))
                held = []
            if not held:
                first = own
            take = min(length, (first + blocks_at_once) * block - source)
            held.append(Run(source, target, take))
            stop = -(-(source + take) // block)
            source, target, length = source + take, target + take, length - take
    if held:
        yield Window(first, stop, tuple(held))
