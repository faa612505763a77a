"""Lines of a text file that may be compressed with gzip or zstandard; a file cut short is an error, not an end."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import zstandard

from megacode.data.errors import DataError

CHUNK_BYTES = 1 << 20


def lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of `path` without their newline, unpacked by the ending `.gz` or `.zst`.

    Raises DataError when the file is damaged or ends in the middle of its compressed data.
    """
    rest = b""
    for chunk in _chunks(path):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield the unpacked bytes of `path` in pieces."""
    try:
        if path.suffix == ".zst":
            yield from _unpack(path)
            return
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except (EOFError, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise DataError(f"{path}: damaged compressed file ({error}); fetch or write it again") from error


def _unpack(path: Path) -> Iterator[bytes]:
    """Yield the unpacked bytes of one or more zstandard frames. Raises EOFError when the last is cut short."""
    frame = zstandard.ZstdDecompressor().decompressobj()
    with path.open("rb") as file:
        while packed := file.read(CHUNK_BYTES):
            while packed:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(packed)
                packed = frame.unused_data
    if not frame.eof:
        raise EOFError("it ends in the middle of a zstandard frame")
