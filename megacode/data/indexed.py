"""Megatron's indexed shards: PREFIX.bin holds the tokens, PREFIX.idx says where each document starts.

`.idx`, little-endian: `MMIDIDX\\0\\0`, u64 version 1, u8 dtype code, u64 sequences, u64 entries of the document index,
i32 lengths in tokens [sequences], i64 pointers in bytes [sequences], i64 document index [sequences + 1].
One sequence is one document here. Layout of Megatron-core 0.16 `IndexedDataset`, which reads these files.
"""

from __future__ import annotations

import struct
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np

from megacode.data.atomic import partial, replacing
from megacode.data.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPES: MappingProxyType[int, np.dtype[Any]] = MappingProxyType({8: np.dtype("<u2"), 4: np.dtype("<i4")})
UINT16_BELOW = 65500  # Megatron's own border between uint16 and int32


def bin_path(prefix: Path) -> Path:
    """Return the token file of `prefix`."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """Return the index file of `prefix`."""
    return prefix.with_name(prefix.name + ".idx")


class ShardWriter:
    """Write one shard; both files appear under their names when the `with` block ends well, and not before.

    End-of-text tokens are the caller's. `documents` and `tokens` count what was added.
    """

    def __init__(self, prefix: Path | str, vocab_size: int) -> None:
        """Open `prefix`; tokens are uint16 when `vocab_size` < 65500, else int32."""
        self._prefix = Path(prefix)
        self._prefix.parent.mkdir(parents=True, exist_ok=True)
        self._code = 8 if vocab_size < UINT16_BELOW else 4
        self._vocab_size = vocab_size
        self._lengths: list[int] = []
        self.tokens = 0
        self._file = partial(bin_path(self._prefix)).open("wb")

    @property
    def documents(self) -> int:
        """Documents added so far."""
        return len(self._lengths)

    def add(self, tokens: np.ndarray | list[int]) -> None:
        """Append one document's token ids [n]. Raises DataError for n = 0 or an id outside the vocabulary."""
        values = np.asarray(tokens, dtype=np.int64)
        if values.ndim != 1 or not values.size:
            raise DataError(f"a document must be a row of at least one token; found shape {values.shape}")
        if values.min() < 0 or values.max() >= self._vocab_size:
            raise DataError(
                f"token ids must be in [0, {self._vocab_size}); document {self.documents} has "
                f"{values.min()} to {values.max()}"
            )
        self._file.write(values.astype(DTYPES[self._code]).tobytes())
        self._lengths.append(values.size)
        self.tokens += values.size

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        temporary = partial(bin_path(self._prefix))
        if kind is not None:
            temporary.unlink(missing_ok=True)
            return
        idx_path(self._prefix).unlink(missing_ok=True)  # never an old index beside new tokens
        temporary.replace(bin_path(self._prefix))
        lengths = np.array(self._lengths, dtype="<i4")
        pointers = (np.cumsum(lengths, dtype=np.int64) - lengths) * DTYPES[self._code].itemsize
        with replacing(idx_path(self._prefix)) as file:
            file.write(HEADER.pack(MAGIC, VERSION, self._code, lengths.size, lengths.size + 1))
            file.write(lengths.tobytes())
            file.write(pointers.astype("<i8").tobytes())
            file.write(np.arange(lengths.size + 1, dtype="<i8").tobytes())


class ShardReader:
    """Read one shard through memory maps: `documents`, `tokens`, `lengths` int32 [documents] in tokens."""

    def __init__(self, prefix: Path | str) -> None:
        """Map `prefix`. Raises DataError when a file is missing, damaged, or does not match the other."""
        self.prefix = Path(prefix)
        index, data = idx_path(self.prefix), bin_path(self.prefix)
        for file in (index, data):
            if not file.is_file():
                raise DataError(f"{file}: missing; a shard is a .bin and an .idx: tokenize again")
        self.dtype, self.documents = _header(index)
        rows = self.documents
        raw = np.asarray(np.memmap(index, mode="r", dtype=np.uint8))  # plain views of it index faster
        first, second = HEADER.size + 4 * rows, HEADER.size + 12 * rows
        self.lengths: np.ndarray = raw[HEADER.size : first].view("<i4")
        self._pointers = raw[first:second].view("<i8")
        _check_rows(index, self.lengths, self._pointers, raw[second:].view("<i8"), self.dtype.itemsize)
        self.tokens = int(self.lengths.sum(dtype=np.int64))
        expected, found = self.tokens * self.dtype.itemsize, data.stat().st_size
        if found != expected:
            raise DataError(f"{data}: must be {expected} bytes to match {index.name}, is {found}; tokenize again")
        empty = np.zeros(0, dtype=self.dtype)
        self._tokens = np.asarray(np.memmap(data, mode="r", dtype=self.dtype)) if self.tokens else empty

    def document(self, index: int) -> np.ndarray:
        """Return document `index`'s tokens [n], a read-only view of the file."""
        if not 0 <= index < self.documents:
            raise DataError(f"{self.prefix}: document must be in [0, {self.documents}); asked for {index}")
        start = int(self._pointers[index]) // self.dtype.itemsize
        return self._tokens[start : start + int(self.lengths[index])]

    def token_counts(self, chunk_tokens: int = 1 << 24) -> np.ndarray:
        """Return how often each id occurs, int64 [highest id + 1]; reads the file once, `chunk_tokens` at a time."""
        counts = np.zeros(0, dtype=np.int64)
        for start in range(0, self.tokens, chunk_tokens):
            part = np.bincount(self._tokens[start : start + chunk_tokens], minlength=counts.size)
            part[: counts.size] += counts
            counts = part
        return counts


def _header(index: Path) -> tuple[np.dtype, int]:
    """Return the token dtype and the documents that `index` declares, its length checked against them."""
    found = index.stat().st_size
    with index.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise DataError(f"{index}: not a Megatron index (must start with {MAGIC!r}, starts with {head[:9]!r})")
    _, version, code, rows, entries = HEADER.unpack(head)
    if version != VERSION:
        raise DataError(f"{index}: version must be {VERSION}, is {version}; write it again with this program")
    if code not in DTYPES:
        raise DataError(f"{index}: token dtype must be 8 (uint16) or 4 (int32), is {code}; tokenize again")
    if entries != rows + 1:
        raise DataError(
            f"{index}: must hold one sequence per document; has {rows} sequences and {entries - 1} documents"
        )
    expected = HEADER.size + 12 * rows + 8 * entries
    if found != expected:
        raise DataError(f"{index}: must be {expected} bytes for {rows} documents, is {found}; tokenize again")
    return DTYPES[code], rows


def _check_rows(index: Path, lengths: np.ndarray, pointers: np.ndarray, documents: np.ndarray, width: int) -> None:
    """Raise DataError unless documents follow one another without a gap."""
    ends = np.cumsum(lengths, dtype=np.int64) * width
    good = bool((lengths >= 0).all()) and np.array_equal(documents, np.arange(documents.size))
    if not good or not np.array_equal(pointers, ends - lengths.astype(np.int64) * width):
        raise DataError(
            f"{index}: damaged (lengths, pointers and document index contradict each other); tokenize again"
        )
