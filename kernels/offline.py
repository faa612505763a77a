"""Compiles Triton kernels for a GPU that is not here, and records what is launched on one that is.

Triton carries its own ptxas, so a cubin needs no GPU and no driver. The launchers of `megacode.kernels` run on meta
tensors at their real sizes; here they compile, with the specialization that a real launch would have, and stop before
it. So a report sees the block sizes, warps and arguments of the code, not a copy of them.

Triton decides per process whether it interprets kernels; a process that does cannot compile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction


class CannotCompile(ValueError):
    """This process cannot compile kernels; the message says what to do."""


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    options: its keyword arguments: compile-time constants, num_warps and num_stages.
    binary:  Triton's CompiledKernel: `asm["ptx"]`, `asm["cubin"]`, `metadata.shared`. One object per build.
    """

    name: str
    grid: tuple[int, ...]
    options: Mapping[str, Any]
    binary: Any


class _OfflineDriver(DriverBase):
    """A driver of a GPU of compute capability `capability` that is not here: it can only name its target."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    @classmethod
    def is_active(cls) -> bool:
        return False

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps compiled kernels per device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def map_python_to_cpp_type(self, name: str) -> str:
        raise NotImplementedError("nothing is launched")

    def get_benchmarker(self) -> Callable[..., Any]:
        raise NotImplementedError("nothing is launched")


@contextmanager
def compiling_for(capability: int) -> Iterator[list[Launch]]:
    """While the block runs, launches compile for a GPU of compute capability 80 (A100), 90 (H100), ... and stop there.

    Yields the list that every launch is appended to, in order. For meta tensors; nothing is computed.
    Raises CannotCompile in a process where Triton interprets.
    """
    if triton.knobs.runtime.interpret:
        raise CannotCompile("Triton interprets in this process and cannot compile; start one without TRITON_INTERPRET")
    # Not `driver.active`, which would look for a real one and find none.
    before = driver._active
    driver.set_active(_OfflineDriver(capability))
    try:
        with recording_launches(compile_only=True) as launches:
            yield launches
    finally:
        driver._active = before


@contextmanager
def recording_launches(compile_only: bool = False) -> Iterator[list[Launch]]:
    """While the block runs, every launch of a Triton kernel is appended to the list; `compile_only` stops before it."""
    launches: list[Launch] = []
    run = JITFunction.run

    def recorded(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        binary = run(self, *args, grid=grid, warmup=warmup or compile_only, **kwargs)
        options = {name: value for name, value in kwargs.items() if isinstance(value, bool | int | float | str)}
        launches.append(Launch(self.fn.__name__, tuple(grid), options, binary))
        return binary

    JITFunction.run = recorded  # type: ignore[method-assign]
    try:
        yield launches
    finally:
        JITFunction.run = run  # type: ignore[method-assign]
