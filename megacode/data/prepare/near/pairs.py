"""The pairs inside one band that are near duplicates: candidates agree in the band, pairs in enough of the signature.

Not all pairs are returned but a spanning forest of them, which hangs together in the same clusters: so a group of
thousands of equal documents costs a step, not its square. In each group one document at a time, the pivot, is compared
with those not yet joined; what it joins are the next pivots. All groups take their steps together, in numpy.

A comparison reads a sketch first, three bits of each place of the signature: documents that differ in too many of
those differ in too many places, and only the others are compared in full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from megacode.data.prepare.near.hashing import row_hashes

BITS = 3  # of each place, in a sketch
ROWS_AT_ONCE = 16_384  # signatures in memory at once: 16 MiB at 256 permutations
CANDIDATES_AT_ONCE = 1_000_000  # whole groups at once: about 200 bytes each
LARGE = 512  # distinct signatures; a group from here on takes its steps alone, which is faster

MatrixOf = Callable[[np.ndarray], np.ndarray]


def pairs_in_band(keys: np.ndarray, matrix_of: MatrixOf | np.ndarray, threshold: float) -> np.ndarray:
    """Return edges int64 [p, 2], lower first: their connected components are those of all near-duplicate pairs.

    Of the documents [0, k) of `keys` uint64 [k], a pair is meant where the keys are equal and the signatures agree in
    a share of at least `threshold` of their places. `matrix_of` is the signatures uint32 [k, permutations], also a
    memory map, or a function from ascending document numbers int64 [n] to their signatures uint32 [n, permutations].
    """
    fetch = matrix_of if callable(matrix_of) else matrix_of.__getitem__
    edges = [np.zeros((0, 2), dtype=np.int64)]
    for members, groups in _candidates(keys):
        edges.append(_Band(members, fetch, threshold).edges(groups))
    pairs = np.sort(np.concatenate(edges), axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _candidates(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield whole groups of equal keys: documents int64 [n], ascending in a group, and their groups int64 [n]."""
    order = np.argsort(keys, kind="stable")
    equal = keys[order[1:]] == keys[order[:-1]]
    shared = np.zeros(keys.size, dtype=bool)
    shared[1:] |= equal
    shared[:-1] |= equal
    begins = shared & ~np.concatenate([[False], equal])[: keys.size]
    members = order[shared]
    groups = np.cumsum(begins[shared]) - 1
    start = 0
    while start < members.size:
        end = min(start + CANDIDATES_AT_ONCE, members.size)
        end = int(np.searchsorted(groups, groups[end - 1], side="right"))
        yield members[start:end], groups[start:end]
        start = end


class _Band:
    """Documents of some groups, by their place in `members` int64 [n], with what is needed to compare them."""

    def __init__(self, members: np.ndarray, fetch: MatrixOf, threshold: float) -> None:
        self._members, self._fetch, self._threshold = members, fetch, threshold
        sketches, hashes = [], []
        for start in range(0, members.size, ROWS_AT_ONCE):
            block = self._signatures(members[start : start + ROWS_AT_ONCE])
            sketches.append(_sketches(block))
            hashes.append(row_hashes(block))
        self._sketches, self._hashes = np.concatenate(sketches), np.concatenate(hashes)
        agreements = np.arange(block.shape[1] + 1)
        self._most_differences = block.shape[1] - int(np.argmax(agreements / block.shape[1] >= threshold))

    def edges(self, groups: np.ndarray) -> np.ndarray:
        """Return the edges int64 [p, 2] of the `groups` int64 [n], ascending."""
        first = _first_of_equals(groups, self._hashes)
        copies = np.flatnonzero(first != np.arange(first.size))
        copies = copies[self._agree(first[copies], copies)]
        joined = [np.stack([first[copies], copies], axis=1)]
        alone = np.ones(first.size, dtype=bool)
        alone[copies] = False
        sizes = np.bincount(groups - groups[0], weights=alone)[groups - groups[0]]
        small = np.flatnonzero(alone & (sizes < LARGE))
        joined += self._edges_of_small(small, groups[small])
        large = np.flatnonzero(alone & (sizes >= LARGE))
        for places in np.split(large, np.flatnonzero(np.diff(groups[large])) + 1):
            joined += self._edges_of_large(places)
        return self._members[np.concatenate(joined)]

    def _edges_of_small(self, active: np.ndarray, groups: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the edges [p, 2] of all groups' next pivots, until nobody is left; `active` are the places in play."""
        reached = np.zeros(active.size, dtype=bool)
        while active.size:
            starts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
            sizes = np.diff(starts, append=active.size)
            order = np.arange(active.size)
            pivots = np.minimum.reduceat(np.where(reached, order, order + active.size), starts) % active.size
            others = ~reached
            others[pivots] = False
            asked = np.flatnonzero(others)
            partners = active[np.repeat(pivots, sizes)[asked]]
            alike = self._alike(partners, active[asked])
            yield np.stack([partners[alike], active[asked[alike]]], axis=1)
            reached[asked[alike]] = True
            others[asked[alike]] = False
            stays = np.repeat(np.logical_or.reduceat(others, starts), sizes)  # somebody of the group is left to join
            stays[pivots] = False
            active, groups, reached = active[stays], groups[stays], reached[stays]

    def _edges_of_large(self, waiting: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the edges [p, 2] of each pivot of one group, whose places are `waiting`."""
        sketches = np.ascontiguousarray(self._sketches[waiting].T)
        reached: deque[int] = deque()
        while waiting.size:
            if not reached:
                reached.append(int(waiting[0]))
                waiting, sketches = waiting[1:], sketches[:, 1:]
            pivot = reached.popleft()
            differences = _differences(sketches, self._sketches[pivot][:, None])
            close = np.flatnonzero(differences <= self._most_differences)
            close = close[self._agree(np.full(close.size, pivot), waiting[close])]
            if close.size:
                found = waiting[close]
                yield np.stack([np.full(close.size, pivot), found], axis=1)
                reached.extend(found.tolist())
                left = np.ones(waiting.size, dtype=bool)
                left[close] = False
                waiting, sketches = waiting[left], sketches[:, left]

    def _signatures(self, documents: np.ndarray) -> np.ndarray:
        """Return the signatures of `documents`, in their order, read in ascending order."""
        ascending, inverse = np.unique(documents, return_inverse=True)
        return np.asarray(self._fetch(ascending))[inverse]

    def _alike(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return for each pair of places whether the signatures agree in enough places, bool [n]: by sketches first."""
        alike = np.zeros(one.size, dtype=bool)
        for start in range(0, one.size, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            left, right = (self._sketches[places[part]].T for places in (one, other))
            alike[part] = _differences(left, right) <= self._most_differences
        close = np.flatnonzero(alike)
        alike[close] = self._agree(one[close], other[close])
        return alike

    def _agree(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return for each pair of places whether the signatures agree in enough places, bool [n]."""
        agree = np.zeros(one.size, dtype=bool)
        for start in range(0, one.size, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            documents = self._members[np.concatenate([one[part], other[part]])]
            left, right = np.split(self._signatures(documents), 2)
            agree[part] = (left == right).mean(axis=1) >= self._threshold
        return agree


def _sketches(block: np.ndarray) -> np.ndarray:
    """Return the lowest BITS bits of each place of signatures uint32 [n, permutations], uint64 [n, words x BITS].

    The BITS words of the same 64 places lie side by side.
    """
    bits = np.stack([(block >> np.uint32(bit)) & np.uint32(1) for bit in range(BITS)], axis=1).astype(np.uint8)
    short = -block.shape[1] % 64
    planes = np.packbits(np.pad(bits, ((0, 0), (0, 0), (0, short))), axis=2).view(np.uint64)
    return planes.transpose(0, 2, 1).reshape(block.shape[0], -1)


def _differences(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return in how many places at least sketches uint64 [words x BITS, n] or [words x BITS, 1] differ, [n]."""
    total = np.zeros(one.shape[1], dtype=np.uint16)
    for word in range(0, one.shape[0], BITS):
        differing = one[word] ^ other[word]
        for bit in range(1, BITS):
            differing |= one[word + bit] ^ other[word + bit]
        total += np.bitwise_count(differing)
    return total


def _first_of_equals(groups: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return for each place the first place of the same group and hash, int64 [n]."""
    order = np.lexsort((hashes, groups))
    begins = np.ones(order.size, dtype=bool)
    begins[1:] = (groups[order[1:]] != groups[order[:-1]]) | (hashes[order[1:]] != hashes[order[:-1]])
    first = np.empty(order.size, dtype=np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first
