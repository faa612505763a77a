"""One file that holds what goes to thousands of buckets, so that tasks x buckets files are never needed.

Lines are gathered by bucket and written as compressed frames when SPILL_BYTES of them are held; the index beside the
file, sorted by bucket, says where each frame lies. A reader maps the index and touches only the frames of its bucket.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import zstandard

from megacode.data.errors import DataError
from megacode.data.prepare.writing import replacing

SPILL_BYTES = 1 << 25
LEVEL = 1  # these files live as long as a preparation
_WORD = 1 << 64


def bucket_of(key: bytes, buckets: int) -> int:
    """Return the bucket of a hash (8 bytes or more): equal shares of its range, in its order."""
    return int.from_bytes(key[:8], "big") * buckets // _WORD


def index_of(path: Path) -> Path:
    """Return where the index of a file of buckets lies. It is written last: where it is, the file is whole."""
    return path.with_name(path.name + ".index.npy")


class BucketWriter:
    """Writes `path` and its index, whole or, after an exception, not at all."""

    def __init__(self, path: Path) -> None:
        self._path, self._frames = path, []
        self._held: dict[int, list[bytes]] = defaultdict(list)
        self._held_bytes = self._written = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._replacing = replacing(path)
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)

    def __enter__(self) -> BucketWriter:
        self._file = self._replacing.__enter__()
        return self

    def add(self, bucket: int, line: bytes) -> None:
        """Add a line without newlines to a bucket."""
        self._held[bucket].append(line)
        self._held_bytes += len(line)
        if self._held_bytes >= SPILL_BYTES:
            self._spill()

    def _spill(self) -> None:
        for bucket in sorted(self._held):
            frame = self._compressor.compress(b"\n".join(self._held[bucket]))
            self._file.write(frame)
            self._frames.append((bucket, self._written, len(frame)))
            self._written += len(frame)
        self._held.clear()
        self._held_bytes = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._spill()
        self._replacing.__exit__(kind, error, trace)
        if kind is None:
            index = np.array(sorted(self._frames), dtype=np.int64).reshape(-1, 3)
            with replacing(index_of(self._path)) as file:
                np.save(file, index)


def bucket_lines(paths: Iterable[Path], bucket: int) -> Iterator[bytes]:
    """Yield the lines of `bucket` in all files, in the order they were added; one frame is held at a time.

    Raises DataError when a file is missing or damaged.
    """
    decompressor = zstandard.ZstdDecompressor()
    for path in paths:
        try:
            index = np.load(index_of(path), mmap_mode="r", allow_pickle=False)
            first, last = np.searchsorted(index[:, 0], (bucket, bucket + 1))
            with path.open("rb") as file:
                for _, offset, length in index[first:last].tolist():
                    file.seek(offset)
                    yield from decompressor.decompress(file.read(length)).split(b"\n")
        except (OSError, ValueError, zstandard.ZstdError) as error:
            raise DataError(
                f"{path}: damaged file of a preparation ({error}); remove its folder, start again"
            ) from error
