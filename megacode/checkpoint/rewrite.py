"""A whole checkpoint written by one process, tensor by tensor: what an import makes, and what a conversion makes.

Large tensors are cut, so that no file is longer than was asked for and only a little of anything is in memory.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from megacode.checkpoint.blocks import block_elements
from megacode.checkpoint.coverage import Stretch
from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.folders import find_checkpoint, flush_folder
from megacode.checkpoint.manifest import DTYPES, Manifest, RunState, whole
from megacode.checkpoint.portions import Portion
from megacode.checkpoint.read import CheckpointReader
from megacode.checkpoint.save import Part, write_file, write_manifest

FILE_BYTES = 4 << 30
ELEMENTS_AT_ONCE = 1 << 24

Values = Callable[[str, Portion], Iterable[Tensor]]


def write_checkpoint(
    folder: Path,
    state: RunState,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    values: Values,
    kinds: Sequence[str] = ("master",),
    dtype: str = "F32",
    file_bytes: int = FILE_BYTES,
) -> Manifest:
    """Write the checkpoint `folder`, complete or not at all; returns its manifest.

    `shapes`: every logical tensor's name and global shape. `values(kind, portion)` returns the numbers of a portion of
    one, in as many tensors of the dtype (F32, BF16, F16) as it likes. A file has at most about `file_bytes`. Raises
    CheckpointError if there is something at `folder` already.
    """
    if folder.exists():
        raise CheckpointError(f"{folder}: is there already; choose another folder, or remove it")
    aside = folder.with_name(f".{folder.name}.partial")
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir(parents=True)
    most = max(1, file_bytes // (len(kinds) * DTYPES[dtype].itemsize))
    parts: list[Part] = []
    try:
        for number, portions in enumerate(_files(shapes, most)):
            numbers = (value for kind in kinds for portion in portions for value in values(kind, portion))
            parts.append(write_file(aside, f"part_{number:05d}.safetensors", portions, kinds, dtype, numbers))
        manifest = write_manifest(aside, state, kinds, parts)
    except BaseException:
        shutil.rmtree(aside)
        raise
    aside.rename(folder)
    flush_folder(folder.parent)
    return manifest


def convert(
    source: Path,
    out: Path,
    kinds: Sequence[str] = (),
    dtype: str = "",
    file_bytes: int = FILE_BYTES,
    step: Callable[[int], None] = lambda count: None,
) -> Manifest:
    """Rewrite the checkpoint `source` as `out`, in files of a length of its own whatever layout wrote it.

    `kinds`: ("master",) for the weights alone; all that there are unless given. `dtype`: BF16 or F16 for a smaller one
    of weights; as it is unless given. `step(elements)` is told of what was written. Every byte that is read is checked;
    raises CheckpointError as the reader does, or if a dtype is asked for that training cannot go on from.
    """
    reader = CheckpointReader(find_checkpoint(source))
    tensors = reader.manifest.tensors
    kinds = tuple(kinds or reader.manifest.kinds)
    found = {one.dtype for one in tensors.values()}
    dtype = dtype or (found.pop() if len(found) == 1 else "F32")
    if dtype not in DTYPES:
        raise CheckpointError(f"{dtype}: is no type of a checkpoint; choose one of {', '.join(DTYPES)}")
    if missing := [kind for kind in kinds if kind not in reader.manifest.kinds]:
        raise CheckpointError(f"{reader.folder}: holds no {', '.join(missing)}")
    if dtype != "F32" and kinds != ("master",):
        raise CheckpointError(f"{dtype} is for weights alone: the optimizer's state needs F32; ask for weights only")

    def values(kind: str, portion: Portion) -> Iterator[Tensor]:
        bounds, start, stop = portion.stretch
        for at in range(start, stop, ELEMENTS_AT_ONCE):
            wanted = Stretch(bounds, at, min(stop, at + ELEMENTS_AT_ONCE))
            out = torch.empty(wanted.stop - wanted.start, dtype=torch.float32)
            reader.read(kind, portion.name, wanted, out)
            yield out.to(DTYPES[dtype])
            step(len(out))

    shapes = [(name, tensor.shape) for name, tensor in tensors.items()]
    return write_checkpoint(out, reader.manifest.state, shapes, values, kinds, dtype, file_bytes)


def render_converted(out: Path, manifest: Manifest) -> str:
    """What was written, in a line."""
    files = f"{len(manifest.files)} file" + "s" * (len(manifest.files) != 1)
    what = f"{', '.join(manifest.kinds)} of step {manifest.state.step:,}"
    return f"{out}: {what}, {manifest.bytes / 1e6:,.1f} MB in {files}; every byte read was checked"


def _files(shapes: Sequence[tuple[str, tuple[int, ...]]], most: int) -> Iterator[list[Portion]]:
    """The portions of each file, of at most `most` elements together."""
    filling: list[Portion] = []
    room = most
    for name, shape in shapes:
        bounds, at, elements = whole(shape).bounds, 0, math.prod(shape)
        while at < elements:
            if not room:
                yield filling
                filling, room = [], most
            take = min(room, elements - at)
            filling.append(
                Portion(name, shape, block_elements(shape, _widest_cut(shape)), Stretch(bounds, at, at + take))
            )
            at, room = at + take, room - take
    if filling:
        yield filling


def _widest_cut(shape: tuple[int, ...]) -> int | None:
    """Any layout may read it: blocks as short as a cut along the last dim of a matrix needs."""
    return len(shape) - 1 if len(shape) > 1 else None
