"""Refuses reads and writes outside the tensors of a launch in Triton's interpreter, which otherwise just does them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter


class Bounds:
    """The address ranges that the running launch may touch; installed once for the process."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.launches = 0

    def enter(self, tensors: list[torch.Tensor]) -> None:
        """Allow exactly the bytes between each tensor's first and last element."""
        self.launches += 1
        self.ranges = []
        for tensor in tensors:
            if tensor.numel():
                span = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
                self.ranges.append((tensor.data_ptr(), tensor.data_ptr() + span * tensor.element_size()))

    def check(self, pointers: Any, mask: Any, what: str) -> None:
        """Raise IndexError where an enabled lane lies outside every allowed range."""
        addresses = np.asarray(pointers.data)
        enabled = addresses[np.broadcast_to(np.asarray(mask.data, dtype=bool), addresses.shape)]
        width = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        inside = np.zeros(enabled.shape, dtype=bool)
        for low, high in self.ranges:
            inside |= (enabled >= low) & (enabled + width <= high)
        if not inside.all():
            raise IndexError(f"out-of-bounds {what} in {int((~inside).sum())} lanes")


def install() -> Bounds:
    """Patch the interpreter of this process; call once. Returns the checker."""
    bounds = Bounds()
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    call, load, store = executor.__call__, builder.create_masked_load, builder.create_masked_store

    def checked_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bounds.enter([value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)])
        return call(self, *args, **kwargs)

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        bounds.check(pointers, mask, "load")
        return load(self, pointers, mask, *rest)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        bounds.check(pointers, mask, "store")
        return store(self, pointers, value, mask, *rest)

    executor.__call__, builder.create_masked_load, builder.create_masked_store = (
        checked_call, checked_load, checked_store,
    )  # fmt: skip
    return bounds
