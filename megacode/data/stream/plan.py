"""Which documents of a shard share a sample: best-fit packing, computed once beside the shard (PREFIX.pack-SEQUENCE).

Best-fit decreasing over groups of neighbouring documents (Ding et al., arXiv 2404.10830, section 3): the longest
document first, each into the fullest sample that still holds it. A document longer than a sample is cut into samples
that overlap by the one token that the next begins with.

The file, little-endian: `MCPACK1\\0`, u64 sequence, documents, tokens, samples, parts; i64 [samples + 1] first part of
each sample; then for each part i64 document, i64 first token, i32 tokens.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, insort
from pathlib import Path

import numpy as np

from megacode.data.atomic import replacing
from megacode.data.errors import DataError
from megacode.data.shards.indexed import ShardReader

GROUP_DOCUMENTS = 1 << 14

_HEADER = struct.Struct("<8sQQQQQ")
_MAGIC = b"MCPACK1\x00"
_PART_BYTES = 8 + 8 + 4


def plan_path(prefix: Path, sequence: int) -> Path:
    """Return the name of the plan of shard `prefix` for samples of `sequence` tokens."""
    return prefix.with_name(f"{prefix.name}.pack-{sequence}")


class PackingPlan:
    """The plan of one shard, read through a memory map: `samples` of at most `sequence` + 1 tokens."""

    def __init__(self, reader: ShardReader, sequence: int) -> None:
        """Open the plan. Raises DataError when it is missing, damaged, or of another shard."""
        path = plan_path(reader.prefix, sequence)
        remedy = f"make it with `megacode data pack {reader.prefix} --sequence {sequence}`"
        if not path.is_file():
            raise DataError(f"{path}: missing; {remedy}")
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            raise DataError(f"{path}: not a packing plan; {remedy}")
        _, found, documents, tokens, self.samples, parts = _HEADER.unpack(head)
        if (found, documents, tokens) != (sequence, reader.documents, reader.tokens):
            raise DataError(f"{path}: is of another shard or sequence; {remedy}")
        expected = _HEADER.size + 8 * (self.samples + 1) + _PART_BYTES * parts
        if path.stat().st_size != expected:
            raise DataError(f"{path}: must be {expected} bytes, is {path.stat().st_size}; {remedy}")
        raw = np.asarray(np.memmap(path, mode="r", dtype=np.uint8))[_HEADER.size :]
        firsts, raw = raw[: 8 * (self.samples + 1)], raw[8 * (self.samples + 1) :]
        self._firsts = firsts.view("<i8")
        self._documents = raw[: 8 * parts].view("<i8")
        self._starts = raw[8 * parts : 16 * parts].view("<i8")
        self._lengths = raw[16 * parts :].view("<i4")

    def parts(self, sample: int) -> list[tuple[int, int, int]]:
        """Return (document, first token, end) of each part of `sample`, in order."""
        rows = slice(int(self._firsts[sample]), int(self._firsts[sample + 1]))
        starts, lengths = self._starts[rows], self._lengths[rows]
        ends = starts + lengths
        return list(zip(self._documents[rows].tolist(), starts.tolist(), ends.tolist(), strict=True))


def write_plan(reader: ShardReader, sequence: int) -> PackingPlan:
    """Compute and write a shard's plan; returns it opened."""
    samples: list[list[tuple[int, int, int]]] = []
    for first in range(0, reader.documents, GROUP_DOCUMENTS):
        lengths = np.asarray(reader.lengths[first : first + GROUP_DOCUMENTS]).astype(np.int64)
        samples += [
            [(first + document, start, length) for document, start, length in sample]
            for sample in best_fit(lengths.tolist(), sequence)
        ]
    counts = np.cumsum([0, *(len(sample) for sample in samples)], dtype="<i8")
    parts = np.array([part for sample in samples for part in sample], dtype=np.int64).reshape(-1, 3)
    with replacing(plan_path(reader.prefix, sequence)) as file:
        file.write(_HEADER.pack(_MAGIC, sequence, reader.documents, reader.tokens, len(samples), len(parts)))
        file.write(counts.tobytes())
        file.write(parts[:, 0].astype("<i8").tobytes())
        file.write(parts[:, 1].astype("<i8").tobytes())
        file.write(parts[:, 2].astype("<i4").tobytes())
    return PackingPlan(reader, sequence)


def best_fit(lengths: list[int], sequence: int) -> list[list[tuple[int, int, int]]]:
    """Return samples as lists of (document, first token, tokens), each of at most `sequence` + 1 tokens."""
    capacity = sequence + 1
    whole: list[tuple[int, int, int]] = []
    full: list[list[tuple[int, int, int]]] = []
    for document, length in enumerate(lengths):
        start = 0
        while length - start > capacity:
            full.append([(document, start, capacity)])
            start += sequence
        if length - start > 0:
            whole.append((document, start, length - start))
    whole.sort(key=lambda part: (-part[2], part[0]))
    samples: list[list[tuple[int, int, int]]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, sample), ascending
    for part in whole:
        place = bisect_left(rooms, (part[2], -1))
        if place == len(rooms):
            left, sample = capacity, len(samples)
            samples.append([])
        else:
            left, sample = rooms.pop(place)
        samples[sample].append(part)
        if left > part[2]:
            insort(rooms, (left - part[2], sample))
    return full + samples
