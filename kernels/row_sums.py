"""Sums over rows: partial sums, the kernel that adds them, and tiles for kernels that need no whole rows.

The gradient of a bias or a weight sums over all rows. Without atomics, so that it repeats bit for bit: each program
sums its own rows in registers and writes one partial row, and a second kernel adds the partial rows in order. How
many programs there are follows from the shape alone, so that every GPU gives the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_ROWS = 8
TILE_WARPS = 4
TILE_STAGES = 3
_MOST_TILE_COLUMNS = 512
_TILES_PER_RUN = 8  # 64 rows: partial sums are at most a sixteenth of one bf16 array
_TILED_PROGRAMS = 768  # about six for each multiprocessor of an H100
_BLOCK_ROWS = 64
_BLOCK_COLUMNS = 64


@triton.jit
def sum_partials_kernel(
    partials, output, num_partials, hidden, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr
):  # fmt: skip
    """Add partials, fp32 [sums, num_partials, h], over the middle dim in order; writes output [sums, h]."""
    which = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = columns < hidden
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], dtype=tl.float32)
    for first in range(0, num_partials, BLOCK_ROWS):
        rows = first + tl.arange(0, BLOCK_ROWS)
        offsets = (which * num_partials + rows)[:, None] * hidden + columns[None, :]
        total += tl.load(partials + offsets, mask=(rows < num_partials)[:, None] & inside[None, :], other=0.0)
    tl.store(output + which * hidden + columns, tl.sum(total, axis=0).to(output.dtype.element_ty), mask=inside)


def sum_partials(partials: Tensor, *dtypes: torch.dtype) -> tuple[Tensor, ...]:
    """Sum partials, fp32 [sums, programs, h], over programs: one [h] for each of `dtypes`, slices of one tensor."""
    sums, programs, hidden = partials.shape
    one_dtype = len(set(dtypes)) == 1
    output = torch.empty(sums, hidden, dtype=dtypes[0] if one_dtype else torch.float32, device=partials.device)
    sum_partials_kernel[(triton.cdiv(hidden, _BLOCK_COLUMNS), sums)](
        partials, output, programs, hidden, BLOCK_ROWS=_BLOCK_ROWS, BLOCK_COLUMNS=_BLOCK_COLUMNS, num_warps=4
    )
    return tuple(total.to(dtype) for total, dtype in zip(output.unbind(), dtypes, strict=True))


def tile_columns(width: int) -> int:
    """Return the columns of a tile, a power of two, for kernels that need no whole row of `width` columns at once."""
    return min(triton.next_power_of_2(width), _MOST_TILE_COLUMNS)


def count_runs(rows: int, width: int) -> int:
    """Return among how many programs one column of tiles is shared out, and so how many partial rows there are."""
    tiles = triton.cdiv(rows, TILE_ROWS)
    most = triton.cdiv(_TILED_PROGRAMS, triton.cdiv(width, tile_columns(width)))
    return min(triton.cdiv(tiles, _TILES_PER_RUN), most)
