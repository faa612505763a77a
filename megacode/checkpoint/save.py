"""A checkpoint in the making: each rank writes its own part into a folder aside, one of them merges and commits.

The parts meet on the disk, not in a collective: a rank's part counts when its `part_NNNNN.json` is there, which is
written last; a rank that fails leaves a `failed_NNNNN.json` instead. So writers need nothing of the training's
communication and can work beside it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from megacode.checkpoint.blocks import table_bytes, table_digest
from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.folders import flush_folder
from megacode.checkpoint.manifest import (
    DTYPES,
    FILE_NAME,
    TABLE_ENDING,
    FileRecord,
    Manifest,
    Piece,
    RunState,
    Stored,
    StoredTensor,
)
from megacode.checkpoint.portions import Portion
from megacode.checkpoint.stream import Entry, write_tensors

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5  # seconds between looks for the others' parts


@dataclass(frozen=True)
class Part:
    """What one file adds to the manifest: its record, and one piece of each tensor in it."""

    file: str
    record: FileRecord
    tensors: dict[str, StoredTensor]


_PART = TypeAdapter(Part)


def write_file(
    folder: Path, name: str, portions: Sequence[Portion], kinds: Sequence[str], dtype: str, values: Iterable[Tensor]
) -> Part:
    """Write a file of numbers and its checksums, flushed to the disk; `values`: kind by kind, all portions in order.

    Raises OSError where the disk does.
    """
    entries = [
        Entry(f"{kind}/{one.name}", DTYPES[dtype], (one.elements,), one.block, one.stretch.start)
        for kind in kinds
        for one in portions
    ]
    file = write_tensors(folder / name, entries, values)
    stored: dict[str, Stored] = {}
    tables: list[bytes] = []
    at = 0
    for entry in entries:
        tables.append(table_bytes(file.entries[entry.key].crcs))
        stored[entry.key] = Stored(file.entries[entry.key].offset, at, table_digest(tables[-1]))
        at += len(tables[-1])
    write_flushed(folder / (name + TABLE_ENDING), b"".join(tables))
    tensors = {}
    for one in portions:
        piece = Piece(name, *one.stretch, {kind: stored[f"{kind}/{one.name}"] for kind in kinds})
        tensors[one.name] = StoredTensor(one.shape, dtype, one.block, (piece,))  # type: ignore[arg-type]
    return Part(name, FileRecord(file.bytes, file.header_bytes, file.header_crc32), tensors)


def rank_file(rank: int) -> str:
    """The name of a rank's file."""
    return f"rank_{rank:05d}.safetensors"


def announce(aside: Path, rank: int, part: Part) -> None:
    """Tell whoever merges that a rank's file is whole."""
    _appear(_part_path(aside, rank), _PART.dump_json(part))


def announce_failure(aside: Path, rank: int, reason: str) -> None:
    """Tell whoever merges that a rank could not write; makes room first, for the disk may be full."""
    for ending in ("", TABLE_ENDING):
        (aside / (rank_file(rank) + ending)).unlink(missing_ok=True)
    _appear(_failure_path(aside, rank), json.dumps({"reason": reason}).encode())


def collect_parts(aside: Path, ranks: int, patience: float, check: Callable[[], None]) -> list[Part]:
    """Wait for every rank's part, `patience` seconds after the first look at most, and return them.

    `check` is called at each look; what it raises ends the wait. Raises CheckpointError that names a rank that failed
    or is missing.
    """
    deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
    missing = set(range(ranks))
    while True:
        check()
        there = {entry.name for entry in os.scandir(aside)}
        for rank in range(ranks):
            if _failure_path(aside, rank).name in there:
                reason = json.loads(_failure_path(aside, rank).read_bytes())["reason"]
                raise CheckpointError(f"rank {rank} could not write its part: {reason}")
        missing = {rank for rank in missing if _part_path(aside, rank).name not in there}
        if not missing:
            return [_read_part(_part_path(aside, rank)) for rank in range(ranks)]
        if time.monotonic() > deadline:
            raise CheckpointError(f"rank {min(missing)} has not written its part within {patience:.0f} s")
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, 2 * pause)


def write_manifest(aside: Path, state: RunState, kinds: Sequence[str], parts: Sequence[Part]) -> Manifest:
    """Merge the parts into the manifest, and flush the folder. Raises OSError where the disk does."""
    pieces: dict[str, list[Piece]] = {}
    like: dict[str, StoredTensor] = {}
    for part in parts:
        for name, tensor in part.tensors.items():
            like[name] = tensor
            pieces.setdefault(name, []).extend(tensor.pieces)
    tensors = {
        name: StoredTensor(like[name].shape, like[name].dtype, like[name].block, tuple(pieces[name]))
        for name in sorted(like)
    }
    manifest = Manifest(state, tuple(kinds), tensors, {part.file: part.record for part in parts})
    write_flushed(aside / FILE_NAME, manifest.to_json().encode())
    for leftover in aside.glob("part_*.json"):
        leftover.unlink()
    flush_folder(aside)
    return manifest


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _appear(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_suffix(".partial")
    write_flushed(partial, content)
    partial.rename(path)


def _read_part(path: Path) -> Part:
    try:
        return _PART.validate_json(path.read_bytes())
    except ValidationError as error:
        raise CheckpointError(f"{path}: is not what a rank writes ({error.errors()[0]['msg']})") from None


def _part_path(aside: Path, rank: int) -> Path:
    return aside / f"part_{rank:05d}.json"


def _failure_path(aside: Path, rank: int) -> Path:
    return aside / f"failed_{rank:05d}.json"
