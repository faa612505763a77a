"""Lines of a text file that may be compressed with gzip or zstandard; a file cut short is an error, not an end.

Arrow unpacks: it hands out as much as was asked for, so that a small file which unpacks to terabytes costs no memory,
and it notices a file that ends in the middle of its compressed data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from megacode.data.errors import DataError
from megacode.data.opening import open_regular

CHUNK_BYTES = 1 << 20
PACKINGS = ((".gz", "gzip"), (".zst", "zstd"))
RATIO_COUNTS_FROM = 1 << 24  # bytes unpacked; short files may be packed well


@dataclass(frozen=True)
class Bounds:
    """What a file may cost: the longest line in bytes, and how often larger than itself it may unpack."""

    most_line_bytes: int
    most_unpacked_ratio: int


OWN_FILES = Bounds(most_line_bytes=1 << 40, most_unpacked_ratio=1 << 40)


def lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of `path`, a file of our own, without their newline, unpacked by the ending `.gz` or `.zst`.

    Raises DataError when the file is damaged or ends in the middle of its compressed data.
    """
    for line in bounded_lines(path, OWN_FILES):
        assert line is not None
        yield line


def bounded_lines(path: Path, bounds: Bounds) -> Iterator[bytes | None]:
    """Yield the lines of `path` without their newline, None for one over `bounds`, which is never held as a whole.

    Raises DataError when the file is damaged, is cut short, or unpacks to more than `bounds` allow.
    """
    rest: list[bytes] = []
    held = 0
    for chunk in _chunks(path, bounds.most_unpacked_ratio):
        first, *others = chunk.split(b"\n")
        held += len(first)
        if held <= bounds.most_line_bytes:
            rest.append(first)
        else:
            rest.clear()
        if not others:
            continue
        yield b"".join(rest) if held <= bounds.most_line_bytes else None
        for line in others[:-1]:
            yield line if len(line) <= bounds.most_line_bytes else None
        held = len(others[-1])
        rest = [others[-1]] if held <= bounds.most_line_bytes else []
    if held:
        yield b"".join(rest) if held <= bounds.most_line_bytes else None


def _chunks(path: Path, most_ratio: int) -> Iterator[bytes]:
    """Yield the unpacked bytes of `path` in pieces of CHUNK_BYTES at most."""
    kind = next((kind for ending, kind in PACKINGS if path.name.lower().endswith(ending)), None)
    with open_regular(path) as file:
        if kind is None:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        else:
            yield from _unpacked(path, file, kind, most_ratio)


def _unpacked(path: Path, file: BinaryIO, kind: str, most_ratio: int) -> Iterator[bytes]:
    """Yield the unpacked bytes of `file`, which may be several compressed streams, one behind the other."""
    import pyarrow

    unpacked = 0
    try:
        stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), kind)
        while chunk := stream.read(CHUNK_BYTES):
            unpacked += len(chunk)
            if unpacked > RATIO_COUNTS_FROM and unpacked > most_ratio * file.tell():
                raise DataError(
                    f"{path}: unpacks to more than {most_ratio} times its {file.tell():,} bytes; "
                    "it looks like a decompression bomb: raise limits.most_unpacked_ratio if it is not"
                )
            yield chunk
        packed = file.tell()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: damaged compressed file ({error}); fetch or write it again") from error
    if not packed:
        raise DataError(f"{path}: damaged compressed file (it is empty); fetch or write it again")
