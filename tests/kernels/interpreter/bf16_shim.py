"""Makes bfloat16 right in Triton's interpreter, for tests.

The interpreter keeps bf16 as uint16 and has no arithmetic for it: products multiply the bit patterns and casts
truncate. This patch widens the operands of `tl.dot` to fp32, rounds casts to nearest even as a GPU does, and refuses
any other arithmetic on bf16, which our kernels avoid by widening right after each load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def widen(bits: np.ndarray) -> np.ndarray:
    """Return the fp32 values of bf16 bit patterns (uint16); exact."""
    return (np.ascontiguousarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(bits.shape)


def narrow(values: np.ndarray) -> np.ndarray:
    """Return the bf16 bit patterns (uint16) nearest to fp32 values, ties to even, NaN kept."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(is_nan, np.uint32(0x7FC0), rounded).astype(np.uint16).reshape(values.shape)


def _patched_convert(original: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    toward_zero = interpreter._ir.ROUNDING_MODE.RTZ

    def convert(data: np.ndarray, source: Any, target: Any, rounding: Any) -> np.ndarray:
        if source == tl.bfloat16 and target == tl.float32:
            return widen(data)
        if source == tl.float32 and target == tl.bfloat16 and rounding != toward_zero:
            return narrow(data)
        return original(data, source, target, rounding)

    return convert


def _patched_dot(original: Callable[..., Any]) -> Callable[..., Any]:
    def widened(handle: Any) -> Any:
        is_bf16 = handle.dtype.scalar == tl.bfloat16
        return interpreter.TensorHandle(widen(handle.data), tl.float32) if is_bf16 else handle

    def create_dot(self: Any, left: Any, right: Any, *rest: Any) -> Any:
        return original(self, widened(left), widened(right), *rest)

    return create_dot


def _patched_binary(original: Callable[..., Any]) -> Callable[..., Any]:
    def binary_op(self: Any, left: Any, right: Any, operation: Any) -> Any:
        if tl.bfloat16 in (left.dtype.scalar, right.dtype.scalar):
            raise NotImplementedError("arithmetic on bf16 in a kernel: widen to fp32 after the load")
        return original(self, left, right, operation)

    return binary_op


def install() -> None:
    """Patch the interpreter of this process; call once."""
    builder = interpreter.InterpreterBuilder
    interpreter._convert_float = _patched_convert(interpreter._convert_float)
    builder.create_dot = _patched_dot(builder.create_dot)
    builder.binary_op = _patched_binary(builder.binary_op)
