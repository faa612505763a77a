"""The arithmetic of `counter_random.py` for use inside Triton kernels; bit for bit the same, unsigned.

Kept apart so that `counter_random` imports where Triton is not installed.
A row's key takes two 64-bit multiplications, a column's two of 32 bits, an element one more: a kernel draws the keys of
what it holds still before its loop, and reads those of many rows from memory where another kernel has drawn them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from megacode.kernels import counter_random

_GAMMA = tl.constexpr(counter_random.GAMMA)
_MULTIPLIER_1 = tl.constexpr(counter_random.MULTIPLIER_1)
_MULTIPLIER_2 = tl.constexpr(counter_random.MULTIPLIER_2)
_COLUMN_SQUARE = tl.constexpr(counter_random.COLUMN_SQUARE)
_COLUMN_FACTOR = tl.constexpr(counter_random.COLUMN_FACTOR)


@triton.jit
def row_keys(seed, rows):
    """Return the uint64 keys of logical `rows` (int64, any shape) under the 64-bit `seed`."""
    bits = (rows.to(tl.uint64) + 1) * _GAMMA + seed.to(tl.uint64)
    bits = (bits ^ (bits >> 30)) * _MULTIPLIER_1
    bits = (bits ^ (bits >> 27)) * _MULTIPLIER_2
    return bits ^ (bits >> 31)


@triton.jit
def column_keys(columns):
    """Return the uint32 keys of logical `columns` (int32, any shape)."""
    columns = columns.to(tl.uint32)
    return columns * (columns * _COLUMN_SQUARE + _COLUMN_FACTOR)


@triton.jit
def random_bits(of_rows, of_columns):
    """Return 32 random bits per element, as uint32, of keys of rows and of columns that broadcast."""
    return (of_rows.to(tl.uint32) ^ of_columns) * ((of_rows >> 32).to(tl.uint32) | 1)


@triton.jit
def keep(of_rows, of_columns, DROP_BELOW: tl.constexpr):
    """Return the keep mask, bool, of keys that broadcast, for the threshold `counter_random.drop_threshold`."""
    return random_bits(of_rows, of_columns) >= DROP_BELOW
