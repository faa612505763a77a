"""What kernels whose programs hold whole rows share: how a row is held, and how many programs walk over how many rows.

A row is a tuple of 3 or 4 parts of a power of two of columns each (1 part where it is narrow), not one block of the
next power of two: widths of models are 3 * 2^k, and a block would leave a quarter of all lanes idle, and the sums short
of registers. Only the last part can reach beyond the row; there its lanes load 0 and store nothing.

Programs hold what belongs to columns (weights, sums) in registers and take every num_programs-th row, while the next
rows arrive in shared memory (`tl.range` with num_stages). How many programs there are follows from the shape alone, so
that every GPU sums in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

MAX_HIDDEN = 65536
_FEWEST_PROGRAMS = 64
# An A100 has 108 multiprocessors and an H100 132: a multiple of 108 runs in whole waves on the one, and in as many on
# the other.
_WAVE = 108
_FULL_WIDTH = 8192  # columns from which one program fills a multiprocessor
_MOST_PROGRAMS_EACH = 4
_STAGE_BYTES = 144 * 1024  # of the 163 KiB of shared memory that a program may have on an A100
_MOST_STAGES = 4


@triton.jit
def load_part(row, part: tl.constexpr, hidden, PART: tl.constexpr, PARTS: tl.constexpr):
    """Return one part of the row of `hidden` elements that the pointer `row` begins: fp32 [PART], 0 outside."""
    columns = part * PART + tl.arange(0, PART)
    if part < PARTS - 1:
        return tl.load(row + columns).to(tl.float32)
    return tl.load(row + columns, mask=columns < hidden, other=0.0).to(tl.float32)


@triton.jit
def store_part(row, values, part: tl.constexpr, hidden, PART: tl.constexpr, PARTS: tl.constexpr):
    """Write one part, [PART] of any float dtype, into the row of `hidden` elements that the pointer `row` begins."""
    columns = part * PART + tl.arange(0, PART)
    if part == PARTS - 1:
        tl.store(row + columns, values.to(row.dtype.element_ty), mask=columns < hidden)
    else:
        tl.store(row + columns, values.to(row.dtype.element_ty))


@triton.jit
def load_row(row, hidden, PART: tl.constexpr, PARTS: tl.constexpr):
    """Return a row of `hidden` elements as PARTS tensors fp32 [PART], 0 outside."""
    parts = ()
    for part in tl.static_range(PARTS):
        parts += (load_part(row, part, hidden, PART, PARTS),)
    return parts


@triton.jit
def store_row(row, parts, hidden, PART: tl.constexpr, PARTS: tl.constexpr):
    """Write a row held as PARTS tensors [PART]."""
    for part in tl.static_range(PARTS):
        store_part(row, parts[part], part, hidden, PART, PARTS)


@triton.jit
def zero_row(PART: tl.constexpr, PARTS: tl.constexpr):
    """Return a row of zeros as PARTS tensors fp32 [PART]."""
    parts = ()
    for _ in tl.static_range(PARTS):
        parts += (tl.zeros([PART], dtype=tl.float32),)
    return parts


@triton.jit
def sum_row(parts, PARTS: tl.constexpr):
    """Return the sum over all elements of a row held as PARTS tensors."""
    total = parts[0]
    for part in tl.static_range(1, PARTS):
        total += parts[part]
    return tl.sum(total, axis=0)


@dataclass(frozen=True)
class RowPlan:
    """How a kernel walks over [rows, hidden]: programs, and the row's parts; for StarCoder 3 of 2,048 columns."""

    programs: int
    part: int
    parts: int
    warps: int

    def options(self, arrays: int, element_bytes: int) -> dict[str, Any]:
        """Compile-time arguments of a kernel that reads `arrays` rows at a time of elements of `element_bytes` bytes.

        As many rows are held in flight as shared memory has room for, which narrow programs share with others.
        """
        width = self.part * self.parts
        room = _STAGE_BYTES * min(width, _FULL_WIDTH) // _FULL_WIDTH
        stages = min(max(room // (width * arrays * element_bytes), 1), _MOST_STAGES)
        return {"PART": self.part, "PARTS": self.parts, "STAGES": stages, "num_warps": self.warps}


def plan_rows(rows: int, hidden: int, rows_per_program: int) -> RowPlan:
    """Return how to share out `rows` rows of `hidden` elements.

    About one program for `rows_per_program` rows, which bounds what a program costs (its partial sums, its copy of the
    weights) as a share of the rows, but no fewer than 64 of them, and no more than run at once.
    """
    block = triton.next_power_of_2(hidden)
    part = block if block < 512 else block // 4
    most = _WAVE * min(max(_FULL_WIDTH // block, 1), _MOST_PROGRAMS_EACH)
    programs = min(rows, max(_FEWEST_PROGRAMS, min(triton.cdiv(rows, rows_per_program), most)))
    return RowPlan(programs, part, triton.cdiv(hidden, part), warps=min(max(block // 512, 4), 16))
