"""Reading a checkpoint: any part of any logical tensor, whatever layout wrote it, checked as it is read.

Only the blocks that hold wanted elements are read, each is compared with its checksum before a number of it is used.
"""

from __future__ import annotations

import os
import zlib
from array import array
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megacode.checkpoint.blocks import block_count, first_bad_block, table_digest, table_of
from megacode.checkpoint.coverage import Stretch
from megacode.checkpoint.errors import CheckpointError, Damage
from megacode.checkpoint.manifest import DTYPES, TABLE_ENDING, Manifest, Piece, StoredTensor, whole
from megacode.checkpoint.runs import Run, common_runs, windows

_ELEMENTS_AT_ONCE = 1 << 20
_OPEN_FILES = 64


class CheckpointReader:
    """Reads logical tensors from a checkpoint folder; `bytes_read` counts what of its files was read so far.

    Its Damage names the file. Some files stay open until it is dropped.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, Manifest.read(folder)
        self.bytes_read = 0
        self._open: OrderedDict[str, _File] = OrderedDict()
        self._buffer = np.empty(0, dtype=np.uint8)

    def stored(self, name: str) -> StoredTensor:
        """What the manifest says of a tensor. Raises CheckpointError if it has none of this name."""
        if (tensor := self.manifest.tensors.get(name)) is None:
            raise CheckpointError(f"{self.folder}: holds no tensor {name}")
        return tensor

    def tensor(self, kind: str, name: str) -> Tensor:
        """The whole logical tensor `name` of `kind` (master, exp_avg, exp_avg_sq), fp32.

        Raises CheckpointError if it holds none, and Damage if a file of it is not as it was written.
        """
        shape = self.stored(name).shape
        values = torch.empty(shape, dtype=torch.float32)
        self.read(kind, name, whole(shape), values.view(-1))
        return values

    def read(self, kind: str, name: str, wanted: Stretch, out: Tensor) -> None:
        """Fill `out`, 1-D fp32 on the CPU, with the elements `wanted` of a tensor; raises as `tensor` does."""
        tensor = self.stored(name)
        if kind not in self.manifest.kinds:
            raise CheckpointError(f"{self.folder}: holds {', '.join(self.manifest.kinds)} only, no {kind}")
        filled, target = 0, out.numpy()
        for piece in tensor.pieces:
            if runs := common_runs(wanted, piece.stretch):
                self._copy(kind, name, tensor, piece, runs, target)
                filled += sum(run.length for run in runs)
        # The manifest has been proved to hold every element once; this is the other half of the proof.
        if filled != wanted.stop - wanted.start or filled != len(target):
            raise CheckpointError(f"{self.folder}: {name}: {filled} of {len(target)} elements were found")

    def check(self, kind: str, name: str, piece: Piece) -> None:
        """Read all of a piece. Raises Damage where it is not as it was written."""
        tensor = self.stored(name)
        self._copy(kind, name, tensor, piece, [Run(piece.start, 0, piece.stop - piece.start)], None)

    def check_file(self, name: str) -> None:
        """Compare a file's length and header with the manifest's. Raises Damage where they differ."""
        file, record = self._file(name), self.manifest.files[name]
        if zlib.crc32(self._pread(file, record.header_bytes, 0)) != record.header_crc32:
            raise Damage(f"{file.path}: its header is damaged")

    def _copy(
        self, kind: str, name: str, tensor: StoredTensor, piece: Piece, runs: list[Run], out: np.ndarray | None
    ) -> None:
        """Copy runs of a piece to their places in `out`; None: only compare checksums."""
        file, stored, dtype = self._file(piece.file), piece.stored[kind], DTYPES[tensor.dtype]
        crcs, block, width = self._table(kind, name, piece, tensor.block), tensor.block, dtype.itemsize
        first_block = piece.start // block
        for window in windows(runs, block, _ELEMENTS_AT_ONCE):
            start, stop = max(window.first * block, piece.start), min(window.stop * block, piece.stop)
            data = self._pread(file, (stop - start) * width, stored.offset + (start - piece.start) * width)
            own = crcs[window.first - first_block : window.stop - first_block]
            bad = first_bad_block(data, own, block * width, (start - window.first * block) * width)
            if bad is not None:
                at = stored.offset + max(0, (window.first + bad) * block - piece.start) * width
                raise Damage(f"{file.path}: {kind}/{name} is damaged at or after byte {at}")
            if out is not None:
                values = torch.frombuffer(data, dtype=dtype).float().numpy()
                for source, target, length in window.runs:
                    out[target : target + length] = values[source - start : source - start + length]

    def _table(self, kind: str, name: str, piece: Piece, block: int) -> array[int]:
        file, stored = self._file(piece.file + TABLE_ENDING), piece.stored[kind]
        table = bytes(self._pread(file, 4 * block_count(block, piece.start, piece.stop), stored.table))
        if table_digest(table) != stored.digest:
            raise Damage(f"{file.path}: the checksums of {kind}/{name} are not those that the manifest knows")
        return table_of(table)

    def _file(self, name: str) -> _File:
        if name not in self._open:
            record = self.manifest.files.get(name)
            self._open[name] = _File(self.folder / name, None if record is None else record.bytes)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        return self._open[name]

    def _pread(self, file: _File, length: int, offset: int) -> memoryview:
        """Bytes of a file, which are good until the next call."""
        if len(self._buffer) < length:
            self._buffer = np.empty(length, dtype=np.uint8)
        data = self._buffer.data[:length]
        file.fill(data, offset)
        self.bytes_read += length
        return data


class _File:
    """An open file of the length that the manifest says."""

    def __init__(self, path: Path, length: int | None) -> None:
        self.path, self._descriptor = path, -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
            found = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise Damage(f"{path}: cannot be read ({error.strerror})") from None
        if length is not None and found != length:
            raise Damage(f"{path}: has {found} bytes, not {length}")

    def fill(self, data: memoryview, offset: int) -> None:
        """Read as many bytes as `data` takes, from byte `offset` on."""
        done = 0
        while done < len(data):
            try:
                count = os.preadv(self._descriptor, [data[done:]], offset + done)
            except OSError as error:
                raise Damage(f"{self.path}: cannot be read ({error.strerror})") from None
            if not count:
                raise Damage(f"{self.path}: ends at byte {offset + done}, where {len(data) - done} more should be")
            done += count

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def verify(folder: Path, manifest: Manifest) -> None:
    """Read every byte of a checkpoint. Raises Damage that names the first damaged file."""
    reader = CheckpointReader(folder)
    for name in manifest.files:
        reader.check_file(name)
    for name, tensor in manifest.tensors.items():
        for piece in tensor.pieces:
            for kind in manifest.kinds:
                reader.check(kind, name, piece)
