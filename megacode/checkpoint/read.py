"""Reading a checkpoint: any part of any logical tensor, whatever layout wrote it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.manifest import Manifest, Piece

_CHUNK_BYTES = 1 << 24


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest. Raises CheckpointError that names the first damaged one."""
    for name, stored in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: is missing")
        if path.stat().st_size != stored.bytes:
            raise CheckpointError(f"{path}: has {path.stat().st_size} bytes, not {stored.bytes}")
        if sha256_of(path) != stored.sha256:
            raise CheckpointError(f"{path}: its SHA-256 is not the manifest's; the file is damaged")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class CheckpointReader:
    """Reads logical tensors from a checkpoint folder; files stay open until it is dropped."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, Manifest.read(folder)
        self._open: dict[str, Any] = {}

    def tensor(self, kind: str, name: str) -> Tensor:
        """The whole logical tensor `name` of `kind` (master, exp_avg, exp_avg_sq), fp32.

        Raises CheckpointError if the tensor is unknown, or if its pieces leave an element out or hold one twice.
        """
        stored = self.manifest.tensors.get(name)
        if stored is None:
            raise CheckpointError(f"{self.folder}: holds no tensor {name}")
        whole = torch.full(stored.shape, float("nan"))
        by_bounds: dict[tuple[tuple[int, int], ...], list[Piece]] = {}
        for piece in stored.pieces:
            by_bounds.setdefault(piece.bounds, []).append(piece)
        elements = 0
        for bounds, pieces in by_bounds.items():
            part = whole[tuple(slice(low, high) for low, high in bounds)]
            flat = torch.empty(part.numel())
            at = 0
            for piece in sorted(pieces, key=lambda piece: piece.start):
                if piece.start != at:
                    raise CheckpointError(
                        f"{self.folder}: elements {at} .. {piece.start} of {name} are not stored once"
                    )
                flat[piece.start : piece.stop] = self._piece(kind, name, piece)
                at = piece.stop
            if at != part.numel():
                raise CheckpointError(f"{self.folder}: elements from {at} on of a part of {name} are not stored")
            part.copy_(flat.view(part.shape))
            elements += part.numel()
        if elements != whole.numel():
            raise CheckpointError(f"{self.folder}: {name} has {whole.numel()} elements, {elements} are stored")
        return whole

    def _piece(self, kind: str, name: str, piece: Piece) -> Tensor:
        path, key = self.folder / piece.file, f"{kind}/{name}"
        try:
            if piece.file not in self._open:
                self._open[piece.file] = safe_open(path, framework="pt")
            values: Tensor = self._open[piece.file].get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot read {key} ({error})") from None
        if values.dtype != torch.float32 or values.numel() != piece.stop - piece.start:
            raise CheckpointError(f"{path}: {key} is not {piece.stop - piece.start} fp32 values")
        return values
