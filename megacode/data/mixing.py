"""Mixing 64-bit numbers: splitmix64's finalizer (Steele 2014), a bijection in which each bit reaches every bit."""

from __future__ import annotations

import numpy as np

_MASK = (1 << 64) - 1
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def mixed(value: int) -> int:
    """Return `value`, in [0, 2^64), mixed."""
    value = (value ^ value >> 30) * _FIRST & _MASK
    value = (value ^ value >> 27) * _SECOND & _MASK
    return value ^ value >> 31


def mixed_all(values: np.ndarray) -> np.ndarray:
    """Return `mixed` of each of `values`, uint64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_FIRST)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_SECOND)
    return values ^ (values >> np.uint64(31))
