"""The arithmetic of `counter_random.py` for use inside Triton kernels; bit for bit the same, on uint64.

Kept apart so that `counter_random` imports where Triton is not installed.
The counter is linear in the index, so a tile's counters are a sum of one term per row and one per column, and only the
mixing (two 64-bit multiplications) is paid per element.
"""

from __future__ import annotations

import triton
import triton.language as tl

from megacode.kernels import counter_random

_GAMMA = tl.constexpr(counter_random.GAMMA)
_MULTIPLIER_1 = tl.constexpr(counter_random.MULTIPLIER_1)
_MULTIPLIER_2 = tl.constexpr(counter_random.MULTIPLIER_2)


@triton.jit
def counter(seed, index):
    """Return the uint64 counter of element `index` (int64 or uint64, any shape) under the 64-bit `seed`."""
    return (index.to(tl.uint64) + 1) * _GAMMA + seed.to(tl.uint64)


@triton.jit
def counter_step(offset):
    """Return what to add to the counter of element i for that of element i + offset (integers of any shape)."""
    return offset.to(tl.uint64) * _GAMMA


@triton.jit
def mixed_bits(counters):
    """Return 32 random bits per counter, as uint32: `counter_random.random_bits`."""
    bits = (counters ^ (counters >> 30)) * _MULTIPLIER_1
    bits = (bits ^ (bits >> 27)) * _MULTIPLIER_2
    bits = bits ^ (bits >> 31)
    return (bits >> 32).to(tl.uint32)


@triton.jit
def keep(counters, DROP_BELOW: tl.constexpr):
    """Return the keep mask, bool, of counters (uint64, any shape) for the threshold `counter_random.drop_threshold`."""
    return mixed_bits(counters) >= DROP_BELOW
