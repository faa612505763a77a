"""Megatron's indexed shards: PREFIX.bin holds the tokens, PREFIX.idx says where each document starts.

`.idx`, little-endian: `MMIDIDX\\0\\0`, u64 version 1, u8 dtype code, u64 sequences, u64 entries of the document index,
i32 lengths in tokens [sequences], i64 pointers in bytes [sequences], i64 document index [sequences + 1].
One sequence is one document here. Layout of Megatron-core 0.16 `IndexedDataset`, which reads these files.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np

from megacode.data.atomic import partial
from megacode.data.errors import DataError
from megacode.data.shards.tombstones import read_tombstones, tombstones_path

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPES: MappingProxyType[int, np.dtype[Any]] = MappingProxyType({8: np.dtype("<u2"), 4: np.dtype("<i4")})
UINT16_BELOW = 65500  # Megatron's own border between uint16 and int32
HELD_BYTES = 1 << 18
ROWS_AT_ONCE = 1 << 20


def bin_path(prefix: Path) -> Path:
    """Return the token file of `prefix`."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """Return the index file of `prefix`."""
    return prefix.with_name(prefix.name + ".idx")


class ShardWriter:
    """Write one shard; both files appear under their names when the `with` block ends well, and not before.

    End-of-text tokens are the caller's. `documents` and `tokens` count what was added. No file is held open, so
    that hundreds of shards can be written side by side. Without `with`: `finish`, then `publish`; or `discard`.
    """

    def __init__(self, prefix: Path | str, vocab_size: int) -> None:
        """Start `prefix`; tokens are uint16 when `vocab_size` < 65500, else int32."""
        self.prefix = Path(prefix)
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        self._code = 8 if vocab_size < UINT16_BELOW else 4
        self._vocab_size = vocab_size
        self._lengths = array("i")  # 4 bytes a document
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._sha256 = hashlib.sha256()
        self.tokens = 0
        partial(bin_path(self.prefix)).write_bytes(b"")

    @property
    def documents(self) -> int:
        """Documents added so far."""
        return len(self._lengths)

    @property
    def bin_sha256(self) -> str:
        """The sha256 of the token file, once finished."""
        return self._sha256.hexdigest()

    def add(self, tokens: np.ndarray | Sequence[int]) -> None:
        """Append one document's token ids [n]. Raises DataError for n = 0 or an id outside the vocabulary."""
        values = np.asarray(tokens)
        if values.ndim != 1 or not 0 < values.size < 1 << 31 or values.dtype.kind not in "iu":
            raise DataError(
                f"a document must be a row of 1 to 2^31 - 1 token ids; found shape {values.shape} of {values.dtype}"
            )
        if values.min() < 0 or values.max() >= self._vocab_size:
            raise DataError(
                f"token ids must be in [0, {self._vocab_size}); document {self.documents} has "
                f"{values.min()} to {values.max()}"
            )
        self._held.append(values.astype(DTYPES[self._code]).tobytes())
        self._held_bytes += len(self._held[-1])
        self._lengths.append(values.size)
        self.tokens += values.size
        if self._held_bytes >= HELD_BYTES:
            self._flush()

    def finish(self) -> None:
        """Complete both files under their temporary names."""
        self._flush()
        width = DTYPES[self._code].itemsize
        lengths = np.array(self._lengths, dtype="<i4")
        with partial(idx_path(self.prefix)).open("wb") as file:
            file.write(HEADER.pack(MAGIC, VERSION, self._code, lengths.size, lengths.size + 1))
            file.write(lengths.tobytes())
            start = 0
            for first in range(0, lengths.size, ROWS_AT_ONCE):
                part = lengths[first : first + ROWS_AT_ONCE].astype(np.int64) * width
                ends = np.cumsum(part) + start
                file.write((ends - part).astype("<i8").tobytes())
                start = int(ends[-1])
            for first in range(0, lengths.size + 1, ROWS_AT_ONCE):
                file.write(np.arange(first, min(first + ROWS_AT_ONCE, lengths.size + 1), dtype="<i8").tobytes())

    def publish(self) -> None:
        """Rename the finished files; tombstones of the shard that they replace go with it."""
        idx_path(self.prefix).unlink(missing_ok=True)  # never an old index beside new tokens
        tombstones_path(self.prefix).unlink(missing_ok=True)
        for path in (bin_path(self.prefix), idx_path(self.prefix)):
            partial(path).replace(path)

    def discard(self) -> None:
        """Leave nothing behind; a shard that was there before stays."""
        for path in (bin_path(self.prefix), idx_path(self.prefix)):
            partial(path).unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
            return
        self.finish()
        self.publish()

    def _flush(self) -> None:
        """Append what is held to the token file."""
        data = b"".join(self._held)
        with partial(bin_path(self.prefix)).open("ab") as file:
            file.write(data)
        self._sha256.update(data)
        self._held, self._held_bytes = [], 0


class ShardReader:
    """Read one shard through memory maps, open at once whatever it holds.

    `documents`, `tokens`; `lengths` int32 [documents] in tokens and `dtype` of the tokens; `removed` int64 [r], the
    sorted numbers of documents that were removed (their tokens are end-of-text). Opening looks at the files' sizes,
    the header, and the first and last row; `document` at the rows it needs; `verify_shard` at everything.
    """

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
        self.pointers: np.ndarray = raw[first:second].view("<i8")
        self.document_index: np.ndarray = raw[second:].view("<i8")
        self._width = self.dtype.itemsize
        self._bytes = int(self.pointers[-1]) + int(self.lengths[-1]) * self._width if rows else 0
        found = data.stat().st_size
        if found != self._bytes:
            raise DataError(f"{data}: must be {self._bytes} bytes to match {index.name}, is {found}; tokenize again")
        if rows and (int(self.pointers[0]), int(self.document_index[0]), int(self.document_index[-1])) != (0, 0, rows):
            raise _damaged(index)
        self.tokens = self._bytes // self._width
        empty = np.zeros(0, dtype=self.dtype)
        self._tokens = np.asarray(np.memmap(data, mode="r", dtype=self.dtype)) if self.tokens else empty
        self.removed = np.array(read_tombstones(self.prefix).documents, dtype=np.int64)
        self._removed = frozenset(self.removed.tolist())
        if self.removed.size and self.removed[-1] >= rows:
            raise DataError(
                f"{tombstones_path(self.prefix)}: names document {self.removed[-1]}, the shard has {rows}; "
                "it belongs to another shard"
            )

    def __reduce__(self) -> tuple[type[ShardReader], tuple[Path]]:
        """Another process maps the files again instead of being sent them."""
        return type(self), (self.prefix,)

    def document(self, index: int) -> np.ndarray:
        """Return document `index`'s tokens [n], a read-only view of the file. Raises DataError for a damaged row."""
        start = self.start(index)
        stop = start + int(self.lengths[index])
        after = self.start(index + 1) if index + 1 < self.documents else self.tokens
        if not start <= stop == after:
            raise _damaged(idx_path(self.prefix), index)
        return self._tokens[start:stop]

    def start(self, index: int) -> int:
        """Return the tokens before document `index`. Raises DataError for a damaged row."""
        if not 0 <= index < self.documents:
            raise DataError(f"{self.prefix}: document must be in [0, {self.documents}); asked for {index}")
        start, rest = divmod(int(self.pointers[index]), self._width)
        if rest or not 0 <= start <= self.tokens:
            raise _damaged(idx_path(self.prefix), index)
        return start

    def document_at(self, token: int) -> int:
        """Return the document that token number `token` belongs to, by binary search in the index on disk."""
        if not 0 <= token < self.tokens:
            raise DataError(f"{self.prefix}: token must be in [0, {self.tokens}); asked for {token}")
        at = token * self._width  # numpy would copy the index to search it: its numbers are not aligned
        return bisect_right(range(self.documents), at, key=lambda row: int(self.pointers[row])) - 1

    def is_removed(self, index: int) -> bool:
        """Return whether document `index` was removed."""
        return index in self._removed

    def token_counts(self, chunk_tokens: int = 1 << 24) -> np.ndarray:
        """Return how often each id occurs, int64 [highest id + 1]; reads the file once, `chunk_tokens` at a time."""
        counts = np.zeros(0, dtype=np.int64)
        for start in range(0, self.tokens, chunk_tokens):
            part = np.bincount(self._tokens[start : start + chunk_tokens], minlength=counts.size)
            part[: counts.size] += counts
            counts = part
        return counts

    def check_rows(self) -> None:
        """Raise DataError unless every document follows the one before without a gap; reads the whole index."""
        start = 0
        for first in range(0, self.documents, ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            lengths = self.lengths[part].astype(np.int64)
            ends = np.cumsum(lengths * self._width) + start
            numbers = np.arange(first, first + lengths.size)
            good = lengths.min() >= 0 and np.array_equal(self.document_index[first : first + lengths.size], numbers)
            if not good or not np.array_equal(self.pointers[part], ends - lengths * self._width):
                raise _damaged(idx_path(self.prefix))
            start = int(ends[-1])


def _damaged(index: Path, row: int | None = None) -> DataError:
    """Return the error for rows that cannot be."""
    where = "" if row is None else f" at document {row}"
    return DataError(
        f"{index}: damaged{where} (lengths, pointers and document index contradict each other); tokenize again"
    )


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
