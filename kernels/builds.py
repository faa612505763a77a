"""What the compiler says of a build of a kernel: registers, spills, shared memory, tensor cores. Needs no GPU."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

from megacode.kernels.offline import Launch

_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
# Products on tensor cores: mma of A100, wgmma of H100, tcgen05 of B200.
_MATRIX = re.compile(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)")


@dataclass(frozen=True)
class Build:
    """One kernel, compiled for the arguments and options of one launch.

    registers: a thread. spilled: bytes a thread. shared: bytes a program. warps: a program. binary: CompiledKernel.
    """

    name: str
    grid: tuple[int, ...]
    registers: int
    spilled: int
    shared: int
    warps: int
    ptx: str
    binary: Any

    @property
    def tensor_cores(self) -> bool:
        """Whether it computes products on tensor cores."""
        return uses_tensor_cores(self.binary)

    def __str__(self) -> str:
        numbers = f"{self.registers} registers, {self.spilled} B spilled, {self.shared} B shared, {self.warps} warps"
        return f"{self.name} grid {self.grid}: {numbers}"


def uses_tensor_cores(binary: Any) -> bool:
    """Whether a CompiledKernel computes products on tensor cores."""
    return _MATRIX.search(binary.asm["ptx"]) is not None


def builds_of(launches: Sequence[Launch]) -> list[Build]:
    """Return the builds of launches in order, each once."""
    distinct: dict[int, Launch] = {}
    for launch in launches:
        distinct.setdefault(id(launch.binary), launch)
    return [_read(launch) for launch in distinct.values()]


def _read(launch: Launch) -> Build:
    """Read the resources of a cubin. Triton's kernels own no stack, so stack bytes are spills."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(launch.binary.asm["cubin"])
        command = [_CUOBJDUMP, "-res-usage", path]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump names no resources of {launch.name}: {text}")
    registers, stack, local = map(int, found.groups())
    metadata, ptx = launch.binary.metadata, launch.binary.asm["ptx"]
    return Build(
        launch.name, launch.grid, registers, stack + local, metadata.shared, metadata.num_warps, ptx, launch.binary
    )
