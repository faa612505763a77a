"""Every byte of a checkpoint compared with its checksum, and everything that is damaged named, not only the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megacode.checkpoint.errors import CheckpointError, Damage
from megacode.checkpoint.folders import find_checkpoint
from megacode.checkpoint.manifest import FILE_NAME, Piece
from megacode.checkpoint.read import CheckpointReader


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written: the file, the tensor if it concerns one, and what it is."""

    file: str
    tensor: str
    what: str


@dataclass(frozen=True)
class Verified:
    """What was read of a checkpoint, and what is wrong with it: sound if nothing is."""

    folder: str
    files: int
    tensors: int
    bytes_read: int
    findings: Sequence[Finding]

    @property
    def sound(self) -> bool:
        """Whether every byte is as it was written."""
        return not self.findings


def verify_all(path: Path, advance: Callable[[int], None] = lambda count: None) -> Verified:
    """Read all of a checkpoint, of a run folder its newest; `advance(1)` is called for every tensor.

    Raises CheckpointError if there is none.
    """
    folder = find_checkpoint(path)
    try:
        reader = CheckpointReader(folder)
    except CheckpointError as error:
        return Verified(str(folder), 0, 0, 0, [Finding(FILE_NAME, "", str(error))])
    findings = list(_findings(reader, advance))
    manifest = reader.manifest
    return Verified(str(folder), len(manifest.files), len(manifest.tensors), reader.bytes_read, findings)


def render_verified(found: Verified) -> str:
    """What was found, a line for each thing."""
    if found.sound:
        return (
            f"{found.folder} is sound: {found.tensors} tensors in {found.files} files, "
            f"{found.bytes_read / 1e6:,.1f} MB read"
        )
    lines = [f"{found.folder} is DAMAGED:"]
    lines += [f"  {one.file}" + f": {one.tensor}" * bool(one.tensor) + f": {one.what}" for one in found.findings]
    return "\n".join(lines)


def _findings(reader: CheckpointReader, advance: Callable[[int], None]) -> Iterator[Finding]:
    lost = set()
    for name in reader.manifest.files:
        try:
            reader.check_file(name)
        except Damage as error:
            if "header" not in str(error):
                lost.add(name)
            yield Finding(name, "", str(error))
    for name, tensor in reader.manifest.tensors.items():
        for piece in tensor.pieces:
            if piece.file not in lost:
                yield from _findings_of(reader, name, piece)
        advance(1)


def _findings_of(reader: CheckpointReader, name: str, piece: Piece) -> Iterator[Finding]:
    for kind in reader.manifest.kinds:
        try:
            reader.check(kind, name, piece)
        except Damage as error:
            yield Finding(piece.file, f"{kind}/{name}", str(error))
