"""A safetensors file written from front to back: it never lies in memory as a whole.

The header needs names, types and shapes only, so it can go first, and each tensor is forgotten once it is written.
Format: https://huggingface.co/docs/safetensors (8 bytes header length, JSON header, data without gaps).
"""

from __future__ import annotations

import json
import math
import os
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import torch
from torch import Tensor

from megacode.checkpoint.blocks import BLOCK_ELEMENTS, RunningBlocks

DTYPE_NAMES = MappingProxyType(
    {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.uint8: "U8"}
)
_PORTION = 1 << 20  # bytes that are checksummed and then written, while they are in the processor's cache
_HEADER_ALIGNMENT = 8


@dataclass(frozen=True)
class Entry:
    """A tensor of the file to be. `block`, `start`: elements of a checksum's block, and the first one's place in it."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    block: int = BLOCK_ELEMENTS
    start: int = 0

    @property
    def bytes(self) -> int:
        """Length in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class StoredEntry:
    """Where a tensor begins in its file, in bytes, and the CRC-32 of each of its blocks."""

    offset: int
    crcs: array[int]


@dataclass(frozen=True)
class StoredFile:
    """A file that is written: bytes of all of it and of its header, CRC-32 of the header, its tensors by key."""

    bytes: int
    header_bytes: int
    header_crc32: int
    entries: Mapping[str, StoredEntry]


def write_tensors(
    path: Path,
    entries: Sequence[Entry],
    values: Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
) -> StoredFile:
    """Write `path` as safetensors and flush it to the disk; returns its length and checksums.

    `values` are the numbers of the entries in the same order, on any device: one tensor for an entry, or several that
    make it up one after the other. Of each, only one is held at a time. Raises OSError where the disk does, and
    ValueError if the values are not what the entries say; then an incomplete file is left.
    """
    header = _header(entries, metadata or {})
    stored: dict[str, StoredEntry] = {}
    with path.open("wb", buffering=0) as file:
        _write(file, memoryview(header))
        at, coming = len(header), iter(values)
        for entry in entries:
            blocks = RunningBlocks(entry.block * entry.dtype.itemsize, entry.start * entry.dtype.itemsize)
            for portion in _portions(entry, coming):
                blocks.add(portion)
                _write(file, portion)
            blocks.finish()
            stored[entry.key] = StoredEntry(at, blocks.crcs)
            at += entry.bytes
        if next(coming, None) is not None:
            raise ValueError(f"{path}: more values than its {len(entries)} entries hold")
        os.fsync(file.fileno())
    return StoredFile(at, len(header), zlib.crc32(header), stored)


def _header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for entry in entries:
        if entry.key in table:
            raise ValueError(f"two tensors of the name {entry.key} for one file")
        table[entry.key] = {
            "dtype": DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.bytes],
        }
        at += entry.bytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _portions(entry: Entry, values: Iterator[Tensor]) -> Iterator[memoryview]:
    """The bytes of an entry, as many at once as are written at once."""
    missing, is_first = entry.bytes, True
    while missing > 0 or is_first:
        value = next(values, None)
        if value is None:
            raise ValueError(f"{entry.key}: {missing} bytes of its values are missing")
        if value.dtype != entry.dtype or value.nbytes > missing:
            raise ValueError(f"{entry.key}: is {entry.shape} {entry.dtype}; got {tuple(value.shape)} {value.dtype}")
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        missing, is_first = missing - len(data), False
        yield from (data[at : at + _PORTION] for at in range(0, len(data), _PORTION))


def _write(file: BinaryIO, data: memoryview) -> None:
    while len(data):
        data = data[file.write(data) :]
