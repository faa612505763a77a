"""Compiles the Triton kernels for GPUs that are not here, and reads what the compiler says of them.

Triton carries its own ptxas, so a cubin needs no GPU and no driver. The launchers of `megacode.kernels` run on meta
tensors at their real sizes; `Offline` lets them compile, with the specialization that a real launch would have, and
stops before the launch. So the gate sees the block sizes, warps and arguments of the code, not a copy of them.

TRITON_INTERPRET holds for a whole process: run this folder by itself. In a process that interprets, it is skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parent
INTERPRETING = "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETING:
    os.environ.pop("TRITON_INTERPRET", None)

import triton  # noqa: E402 (after the environment is settled)
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.driver import DriverBase  # noqa: E402
from triton.runtime.driver import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder where the process cannot compile."""
    if INTERPRETING:
        reason = "this process interprets Triton kernels; run `pytest tests/kernels/compile` by itself"
        for item in items:
            if FOLDER in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


class OfflineDriver(DriverBase):
    """A driver of a GPU of compute capability `capability` (80 or 90) that is not here: it can only name its target."""

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


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of one launch: registers per thread, bytes spilled per thread, bytes of shared memory."""

    name: str
    grid: tuple[int, ...]
    registers: int
    spilled: int
    shared: int
    warps: int
    ptx: str
    binary: Any

    def __str__(self) -> str:
        numbers = f"{self.registers} registers, {self.spilled} B spilled, {self.shared} B shared, {self.warps} warps"
        return f"{self.name} grid {self.grid}: {numbers}"


def measure(name: str, grid: tuple[int, ...], binary: Any, folder: Path) -> Compiled:
    """Read the resources of a cubin. Triton's kernels own no stack, so stack bytes are spills."""
    path = folder / f"{name}.cubin"
    path.write_bytes(binary.asm["cubin"])
    text = subprocess.run([CUOBJDUMP, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    assert found is not None, text
    registers, stack, local = map(int, found.groups())
    metadata = binary.metadata
    ptx = binary.asm["ptx"]
    return Compiled(name, grid, registers, stack + local, metadata.shared, metadata.num_warps, ptx, binary)


@pytest.fixture
def compile_launches(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[int, Callable[[], None]], dict[str, Compiled]]]:
    """Return compile(capability, work): what every kernel that `work` launches compiles to, by kernel name."""
    run = JITFunction.run
    active = driver._active

    def compile_for(capability: int, work: Callable[[], None]) -> dict[str, Compiled]:
        launched: list[tuple[str, tuple[int, ...], Any]] = []

        def run_offline(self: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **kwargs: Any) -> Any:
            binary = run(self, *args, grid=grid, warmup=True, **kwargs)
            launched.append((self.fn.__name__, grid, binary))
            return binary

        monkeypatch.setattr(JITFunction, "run", run_offline)
        driver.set_active(OfflineDriver(capability))
        work()
        report = {name: measure(name, grid, binary, tmp_path) for name, grid, binary in launched}
        for kernel in report.values():
            request.node.user_properties.append((f"sm_{capability}", str(kernel)))  # for --junit-xml
        return report

    yield compile_for
    driver._active = active
