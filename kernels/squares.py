"""Sums of squares in Triton, in two passes without atomics, and division by a number that only the device knows.

    squares:  each program sums the squares of a run of 32,768 elements, fp32 in each lane and fp64 between the lanes
    total:    one program adds the runs' sums in fp64

Which element meets which follows from the length alone, so that every GPU gives the same bits. A lane adds 8 squares
in fp32. Reads 4 B an element, 2 FLOPs each; the partial sums are 8 B for 128 KiB.

Meaning and shapes: `reference.sum_of_squares`, `reference.scale_`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096
_BLOCKS = 8
RUN = _BLOCK * _BLOCKS  # elements that one program sums up
_PARTIALS = 4096  # added at a time
_SCALED = 1024
_WARPS = 8


@triton.jit
def squares_kernel(x, partials, length, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """Sum the squares of one run of BLOCK * BLOCKS elements per program: reads x fp32 [n], writes partials fp64."""
    program = tl.program_id(0)
    start = program.to(tl.int64) * BLOCK * BLOCKS
    sums = tl.zeros([BLOCK], dtype=tl.float32)
    for block in range(BLOCKS):
        offsets = start + block * BLOCK + tl.arange(0, BLOCK)
        values = tl.load(x + offsets, mask=offsets < length, other=0.0)
        sums += values * values
    tl.store(partials + program, tl.sum(sums.to(tl.float64), axis=0))


@triton.jit
def total_kernel(partials, total, num_partials, BLOCK: tl.constexpr):
    """Add partials fp64 [num_partials] in one program; writes total, fp64."""
    sums = tl.zeros([BLOCK], dtype=tl.float64)
    for first in range(0, num_partials, BLOCK):
        offsets = first + tl.arange(0, BLOCK)
        sums += tl.load(partials + offsets, mask=offsets < num_partials, other=0.0)
    tl.store(total, tl.sum(sums, axis=0))


@triton.jit
def scale_kernel(x, divisor, length, BLOCK: tl.constexpr):
    """Divide one block of x, fp32 [n], per program by divisor, fp32 scalar; in place."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < length
    by = tl.load(divisor) + tl.zeros([BLOCK], dtype=tl.float32)
    tl.store(x + offsets, tl.div_rn(tl.load(x + offsets, mask=inside, other=0.0), by), mask=inside)


def sum_of_squares(x: Tensor) -> Tensor:
    """`reference.sum_of_squares` in Triton; the same bits on every GPU.

    Shapes: x fp32 [n], contiguous; returns an fp64 scalar. Raises ValueError where x is something else.
    """
    _check(x)
    runs = triton.cdiv(len(x), RUN)
    partials, total = (torch.empty(shape, dtype=torch.float64, device=x.device) for shape in ((runs,), ()))
    if runs:
        squares_kernel[(runs,)](x, partials, len(x), BLOCK=_BLOCK, BLOCKS=_BLOCKS, num_warps=_WARPS)
    total_kernel[(1,)](partials, total, runs, BLOCK=_PARTIALS, num_warps=_WARPS)
    return total


def scale_(x: Tensor, divisor: Tensor) -> None:
    """`reference.scale_` in Triton. Shapes: x fp32 [n], contiguous, divisor fp32 scalar on the same device."""
    _check(x)
    if len(x):
        scale_kernel[(triton.cdiv(len(x), _SCALED),)](x, divisor, len(x), BLOCK=_SCALED, num_warps=_WARPS)


def _check(x: Tensor) -> None:
    if x.dim() != 1 or x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"x must be fp32 [n] and contiguous, got {x.dtype} {tuple(x.shape)}")
