"""The manifest: what a checkpoint holds, by logical tensor, readable with nothing but a JSON library.

A logical tensor lies in pieces. A piece is a run of consecutive elements, `start` .. `stop`, of one rectangular part
(`bounds`, a [first, last + 1] pair per dim) of the tensor, in row-major order; it is stored as a 1-D fp32 tensor, once
for each kind of state, under the key `KIND/NAME` of its file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megacode.checkpoint.errors import CheckpointError
from megacode.optim.loss_scale import Scaling

FILE_NAME = "manifest.json"
FORMAT = "megacode-checkpoint"
VERSION = 1
KINDS = ("master", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """Elements `start` .. `stop` of the part `bounds` of a tensor, stored in `file`."""

    file: str
    bounds: tuple[tuple[int, int], ...]
    start: int
    stop: int


@dataclass(frozen=True)
class StoredTensor:
    """A logical tensor's global shape and where its pieces are."""

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class StoredFile:
    """Length in bytes and SHA-256 of a file of the checkpoint."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class RunState:
    """What a checkpoint says beside the tensors: how far the run was, configuration, tokenizer, loss scale."""

    step: int
    tokens: int
    config: Mapping[str, Any]
    tokenizer: str
    scaling: Scaling = field(default_factory=Scaling)


@dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint but the numbers."""

    state: RunState
    tensors: Mapping[str, StoredTensor]
    files: Mapping[str, StoredFile]

    def to_json(self) -> str:
        """The text of the manifest file."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read a checkpoint folder's manifest. Raises CheckpointError if it is missing or not one."""
        path = folder / FILE_NAME
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}); is this a checkpoint?") from None
        except ValueError as error:
            raise CheckpointError(f"{path}: is not JSON ({error})") from None
        try:
            if (table["format"], table["version"]) != (FORMAT, VERSION):
                raise CheckpointError(
                    f"{path}: is {table['format']} version {table['version']}, not {FORMAT} {VERSION}"
                )
            return cls(
                _run_state(table["state"]),
                {name: _stored_tensor(entry) for name, entry in table["tensors"].items()},
                {name: StoredFile(**entry) for name, entry in table["files"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: lacks or misplaces {error}") from None


def _run_state(table: Mapping[str, Any]) -> RunState:
    # Checkpoints from before fp16 say nothing of the loss scale, which was 1.
    return RunState(**{**table, "scaling": Scaling(**table.get("scaling", {}))})


def _stored_tensor(entry: Mapping[str, Any]) -> StoredTensor:
    pieces = tuple(
        Piece(piece["file"], tuple((low, high) for low, high in piece["bounds"]), piece["start"], piece["stop"])
        for piece in entry["pieces"]
    )
    return StoredTensor(tuple(entry["shape"]), pieces)
