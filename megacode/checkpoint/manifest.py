"""The manifest: what a checkpoint holds, by logical tensor, readable with nothing but a JSON library.

A logical tensor lies in pieces. A piece is a run of consecutive elements, `start` .. `stop`, of one rectangular part
(`bounds`, a [first, last + 1] pair per dim) of the tensor, in row-major order; it is stored as a 1-D tensor, once for
each kind of state, under the key `KIND/NAME` of its file. The checksums of its blocks stand beside it in `FILE.crc32`;
the manifest holds the digest of each table of them, and its own checksum. So everything hangs on the manifest, and a
file of another checkpoint is found out. docs/checkpoints.md says it in full.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError

from megacode.checkpoint.coverage import Bounds, Natural, Stretch, check_stretches, elements_of
from megacode.checkpoint.errors import CheckpointError, Damage
from megacode.optim.loss_scale import Scaling

FILE_NAME = "manifest.json"
FORMAT = "megacode-checkpoint"
VERSION = 2
KINDS = ("master", "exp_avg", "exp_avg_sq")
TABLE_ENDING = ".crc32"
DTYPES = MappingProxyType({"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16})

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_MOST_ELEMENTS = 1 << 56
# A plain name: no folder, nothing hidden.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\.safetensors$", max_length=200)]
Word = Annotated[int, Ge(0), Le(0xFFFFFFFF)]


@dataclass(frozen=True)
class Stored:
    """Where the numbers begin in the file, where their checksums begin in its `.crc32` (bytes), and their digest."""

    __pydantic_config__ = _STRICT
    offset: Natural
    table: Natural
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


@dataclass(frozen=True)
class Piece:
    """Elements `start` .. `stop` of the part `bounds` of a tensor, stored in `file` once for each kind."""

    __pydantic_config__ = _STRICT
    file: FileName
    bounds: Bounds
    start: Natural
    stop: Natural
    stored: Mapping[str, Stored]

    @property
    def stretch(self) -> Stretch:
        """Which elements of the tensor it holds."""
        return Stretch(self.bounds, self.start, self.stop)


@dataclass(frozen=True)
class StoredTensor:
    """A logical tensor's global shape and dtype, elements of a checksum's block, and where its pieces are."""

    __pydantic_config__ = _STRICT
    shape: tuple[Natural, ...]
    dtype: Literal["F32", "BF16", "F16"]
    block: Annotated[int, Ge(1), Le(1 << 30)]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class FileRecord:
    """Bytes of a file and of its header, which is its beginning, and the header's CRC-32."""

    __pydantic_config__ = _STRICT
    bytes: Natural
    header_bytes: Natural
    header_crc32: Word


@dataclass(frozen=True)
class RunState:
    """What a checkpoint says beside the tensors.

    How far the run was (steps, tokens), its configuration, the tokenizer's fingerprint and the loss scale; the layout
    that wrote it, and the seeds, from which with the step all random numbers follow; samples taken of each source, and
    the sha256 of the next global batch; which run it was, and which start of it.
    """

    step: Natural
    tokens: Natural
    config: Mapping[str, Any]
    tokenizer: str
    scaling: Scaling = field(default_factory=Scaling)
    layout: Mapping[str, int | str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    cursors: Mapping[str, Natural] = field(default_factory=dict)
    next_batch: str = ""
    run: str = ""
    restart: Natural = 0


@dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint but the numbers. `kinds`: of state, which every tensor has; "master" is weights."""

    __pydantic_config__ = _STRICT
    state: RunState
    kinds: tuple[str, ...]
    tensors: Mapping[str, StoredTensor]
    files: Mapping[FileName, FileRecord]

    def to_json(self) -> str:
        """The text of the manifest file."""
        table = {"format": FORMAT, "version": VERSION, **_MANIFEST.dump_python(self, mode="json")}
        return _canonical({**table, "checksum": _checksum(table)})

    def said(self) -> dict[str, Any]:
        """The state as a plain table."""
        table: dict[str, Any] = _MANIFEST.dump_python(self, mode="json")["state"]
        return table

    @property
    def bytes(self) -> int:
        """Length of all files of numbers."""
        return sum(file.bytes for file in self.files.values())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read a checkpoint folder's manifest, and prove that its pieces make up every tensor once.

        Raises CheckpointError if it is missing, or none of this version, and Damage if it is not as it was written.
        """
        path = folder / FILE_NAME
        try:
            table = json.loads(path.read_bytes())
        except OSError as error:
            raise Damage(f"{path}: cannot be read ({error.strerror}); is this a checkpoint?") from None
        except (ValueError, RecursionError) as error:
            raise Damage(f"{path}: is not JSON ({error})") from None
        if not isinstance(table, dict) or table.get("format") != FORMAT:
            raise Damage(f"{path}: is not the manifest of a {FORMAT}")
        if table.get("version") != VERSION:
            raise CheckpointError(
                f"{path}: is version {table.get('version')!r} of {FORMAT}, this program reads {VERSION}; "
                "go on with the program that wrote it, or start anew from its `megacode export`"
            )
        checksum = table.pop("checksum", None)
        if checksum != _checksum(table):
            raise Damage(f"{path}: its checksum is not that of its content; the file is damaged")
        del table["format"], table["version"]
        return _parsed(path, table)


_MANIFEST = TypeAdapter(Manifest)


def _canonical(table: Mapping[str, Any]) -> str:
    return json.dumps(table, sort_keys=True, separators=(",", ":"))


def _checksum(table: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(table).encode()).hexdigest()


def _parsed(path: Path, table: Mapping[str, Any]) -> Manifest:
    try:
        manifest = _MANIFEST.validate_json(_canonical(table), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise Damage(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if len({*manifest.kinds}) != len(manifest.kinds) or not {"master"} <= {*manifest.kinds} <= {*KINDS}:
        raise Damage(f"{path}: kinds are {manifest.kinds}; known are {', '.join(KINDS)}, and master is needed")
    for name, tensor in manifest.tensors.items():
        if math.prod(tensor.shape) > _MOST_ELEMENTS:
            raise Damage(f"{path}: {name}: no tensor is as large as {tensor.shape}")
        check_stretches(f"{path}: {name}", tensor.shape, [piece.stretch for piece in tensor.pieces])
        for piece in tensor.pieces:
            _check_place(f"{path}: {name}", manifest, tensor, piece)
    return manifest


def _check_place(where: str, manifest: Manifest, tensor: StoredTensor, piece: Piece) -> None:
    """Refuse a piece that lies outside of its file."""
    if piece.file not in manifest.files:
        raise Damage(f"{where}: lies in {piece.file}, which is not a file of this checkpoint")
    if {*piece.stored} != {*manifest.kinds}:
        raise Damage(f"{where}: is stored as {sorted(piece.stored)}, not {sorted(manifest.kinds)}")
    file, length = manifest.files[piece.file], (piece.stop - piece.start) * DTYPES[tensor.dtype].itemsize
    for kind, stored in piece.stored.items():
        if not file.header_bytes <= stored.offset <= file.bytes - length:
            raise Damage(f"{where}: {kind} lies at byte {stored.offset} of {piece.file}, which is outside of its data")


def whole(shape: tuple[int, ...]) -> Stretch:
    """All elements of a tensor."""
    return Stretch(tuple((0, length) for length in shape), 0, elements_of(tuple((0, length) for length in shape)))
