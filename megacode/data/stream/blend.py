"""Which source sample n is taken from, and which of that source's samples it is: closed formulas, no state.

Sample n turns a pointer by the golden angle n times around a circle on which every source owns an arc as long as its
weight; the source is the arc it points to. Such a rotation meets every arc as evenly as any sequence can (Weyl 1910,
Kesten 1966: the count over n samples stays within O(log n) of weight x n), so each batch has the mix. How often it
met an arc before is a sum of floors, which Euclid's algorithm computes in some 40 steps; that is the source's cursor.
When the weights change, the count so far is the cursor that the next phase begins at: nothing repeats, nothing is lost.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from megacode.data.draws import BLEND, words
from megacode.data.errors import DataError

CIRCLE = 1 << 64
GOLDEN = 0x9E3779B97F4A7C15  # odd and nearest to CIRCLE / golden ratio, so that CIRCLE samples meet every point once


@dataclass(frozen=True)
class Phase:
    """From sample `start` on, sources are taken in proportion to `weights`, one number >= 0 each."""

    start: int
    weights: tuple[float, ...]


class Blend:
    """A mix of `sources` sources over the samples of a run; `phases` in order, the first from sample 0."""

    def __init__(self, phases: Sequence[Phase], seed: int) -> None:
        """Raises DataError for phases out of order, weights of different counts, negative ones or none above 0."""
        _check(phases)
        self.sources = len(phases[0].weights)
        self._starts = [phase.start for phase in phases]
        self._arcs = [_arcs(phase.weights) for phase in phases]
        self._turns = [int(words(seed, 0, BLEND, (place, 0), 1)[0]) for place in range(len(phases))]
        self._cursors = [[0] * self.sources]
        for place, (start, end) in enumerate(pairwise(self._starts)):
            counts = self._counts(place, end - start)
            self._cursors.append([before + count for before, count in zip(self._cursors[-1], counts, strict=True)])

    def source_of(self, sample: int) -> tuple[int, int]:
        """Return (source, which of its samples) for sample number `sample` of the run, both from 0."""
        phase, place = self._phase(sample)
        point = (GOLDEN * place + self._turns[phase]) % CIRCLE
        source = bisect_right(self._arcs[phase], point) - 1
        return source, self._cursors[phase][source] + self._count(phase, source, place)

    def cursors(self, sample: int) -> list[int]:
        """Return how many samples of each source come before sample number `sample`."""
        phase, place = self._phase(sample)
        counts = self._counts(phase, place)
        return [before + count for before, count in zip(self._cursors[phase], counts, strict=True)]

    def _phase(self, sample: int) -> tuple[int, int]:
        """Return the phase of a sample and its number inside the phase."""
        phase = bisect_right(self._starts, sample) - 1
        return phase, sample - self._starts[phase]

    def _counts(self, phase: int, samples: int) -> list[int]:
        """Return how many of the first `samples` samples of a phase each source gives."""
        return [self._count(phase, source, samples) for source in range(self.sources)]

    def _count(self, phase: int, source: int, samples: int) -> int:
        low, high = self._arcs[phase][source : source + 2]
        return self._below(phase, high, samples) - self._below(phase, low, samples)

    def _below(self, phase: int, point: int, samples: int) -> int:
        """Return how many of the first `samples` turns of a phase end below `point`.

        A turn ends at x mod CIRCLE, and floor(x / CIRCLE) - floor((x - point) / CIRCLE) is 1 where that is below.
        """
        turn = self._turns[phase]
        above = floor_sum(samples, CIRCLE, GOLDEN, turn + CIRCLE - point)
        return floor_sum(samples, CIRCLE, GOLDEN, turn) - above + samples


def floor_sum(count: int, modulus: int, slope: int, offset: int) -> int:
    """Return the sum over i in [0, count) of floor((slope x i + offset) / modulus); all >= 0, modulus >= 1.

    Lattice points under a line, by swapping axes as in Euclid's algorithm (Graham, Knuth, Patashnik, Concrete
    Mathematics, section 3.5): about log(modulus) steps.
    """
    total = 0
    while count:
        total += count * (count - 1) // 2 * (slope // modulus) + count * (offset // modulus)
        slope, offset = slope % modulus, offset % modulus
        last = slope * count + offset
        rows = last // modulus
        if not rows:
            break
        # Counted by rows instead: row y holds the i with slope x i + offset >= modulus x y.
        count, modulus, slope, offset = rows, slope, modulus, last % modulus
    return total


def _arcs(weights: Sequence[float]) -> list[int]:
    """Return where each source's arc starts on the circle, and its end: len(weights) + 1 ascending whole numbers."""
    total = sum(weights)
    inner = [round(part / total * CIRCLE) for part in accumulate(weights[:-1])]
    return [0, *(min(point, CIRCLE) for point in inner), CIRCLE]


def _check(phases: Sequence[Phase]) -> None:
    """Raise DataError unless the phases are a mix of the same sources, in order from sample 0."""
    if not phases or phases[0].start != 0:
        raise DataError("a blend must begin at sample 0; give weights for the start of the run")
    for before, after in pairwise(phases):
        if after.start <= before.start:
            raise DataError(f"blend phases must begin one after another; found {after.start} after {before.start}")
    for phase in phases:
        if len(phase.weights) != len(phases[0].weights):
            raise DataError(
                f"the blend from sample {phase.start} has {len(phase.weights)} weights, "
                f"the first has {len(phases[0].weights)}; name every source"
            )
        if not all(0 <= weight < float("inf") for weight in phase.weights) or not sum(phase.weights) > 0:
            raise DataError(f"blend weights must be at least 0 and not all 0; found {phase.weights}")
