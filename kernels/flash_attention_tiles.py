"""What the attention kernels share: tiles of rows that may end outside the tensor, and the counters of dropout."""

from __future__ import annotations

import triton
import triton.language as tl

from megacode.kernels.counter_random_kernels import counter, counter_step


@triton.jit
def _tile_mask(first, length, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """Return which elements of rows first .. first + ROWS exist: bool [ROWS, BLOCK_WIDTH] (or [ROWS, 1])."""
    mask = (first + tl.arange(0, ROWS) < length)[:, None]
    if WIDTH != BLOCK_WIDTH:
        mask = mask & (tl.arange(0, BLOCK_WIDTH) < WIDTH)[None, :]
    return mask


@triton.jit
def load_tile(head, first, stride, length, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """Read rows first .. first + ROWS of one head, [ROWS, BLOCK_WIDTH]; zeros outside the tensor."""
    offsets = tl.arange(0, ROWS)[:, None] * stride + tl.arange(0, BLOCK_WIDTH)[None, :]
    mask = _tile_mask(first, length, WIDTH, ROWS, BLOCK_WIDTH)
    return tl.load(head + tl.cast(first, tl.int64) * stride + offsets, mask=mask, other=0.0)


@triton.jit
def store_tile(
    head, tile, first, stride, length, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr
):  # fmt: skip
    """Write a tile [ROWS, BLOCK_WIDTH] in the tensor's dtype, leaving out what lies outside the tensor."""
    offsets = tl.arange(0, ROWS)[:, None] * stride + tl.arange(0, BLOCK_WIDTH)[None, :]
    mask = _tile_mask(first, length, WIDTH, ROWS, BLOCK_WIDTH)
    target = head + tl.cast(first, tl.int64) * stride + offsets
    tl.store(target, tile.to(head.dtype.element_ty), mask=mask)


@triton.jit
def head_counter(seed, batch, head, length, first_head, global_heads):
    """Return the random counter, uint64, of element (batch, head, q = 0, k = 0): see `AttentionDropout`."""
    global_head = tl.cast(batch, tl.int64) * global_heads + first_head + head
    return counter(seed, global_head * length * length)


@triton.jit
def row_counters(first_counter, rows, length):
    """Return the random counters, uint64, of elements (q = rows, k = 0), given the head's first one."""
    return first_counter + counter_step(rows.to(tl.int64) * length)
