"""Files that several processes may write at once: each under a name of its own, then renamed to the one that counts.

A task that was given up but still runs (a requeued job's first node) and its second run write the same bytes, so
whichever renames last changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import zstandard

from megacode.data import atomic
from megacode.data.documents import COMPRESSION_LEVEL, Document, to_json
from megacode.data.prepare.report import Shard
from megacode.data.prepare.tally import bytes_of


def replacing(path: Path) -> AbstractContextManager[BinaryIO]:
    """Open a file of this process's own for the block and rename it to `path` at the end.

    An exception leaves `path` as it was; a process that is killed leaves a hidden file that nobody reads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    return atomic.replacing(path, own)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by a JSON value."""
    with replacing(path) as file:
        file.write(json.dumps(value).encode())


def write_array(path: Path, array: np.ndarray) -> None:
    """Replace `path` by an array that np.load can map."""
    with replacing(path) as file:
        np.save(file, array, allow_pickle=False)


class _Hashed:
    """Passes bytes on to a file, and keeps their number and sha256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Write `data`; returns its bytes."""
        self.sha256.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Nothing is held here."""


class DocumentWriter:
    """Writes documents to a .jsonl.zst one by one, whole or, after an exception, not at all; `shard` describes it."""

    def __init__(self, path: Path) -> None:
        self._path, self._stack = path, ExitStack()
        self.documents = self.content_bytes = 0

    def __enter__(self) -> DocumentWriter:
        self._hashed = _Hashed(self._stack.enter_context(replacing(self._path)))
        compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=True)
        self._out = self._stack.enter_context(compressor.stream_writer(self._hashed, closefd=False))
        return self

    def add(self, document: Document) -> None:
        """Write one document."""
        self._out.write(to_json(document).encode() + b"\n")
        self.documents += 1
        self.content_bytes += bytes_of(document)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def shard(self) -> Shard:
        """Return what was written, once the block has ended."""
        hashed = self._hashed
        return Shard(self._path.name, self.documents, self.content_bytes, hashed.bytes, hashed.sha256.hexdigest())
