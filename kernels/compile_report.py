"""One row for each build of each kernel at the shapes of `kernels/cases`, for GPUs that need not be here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megacode.kernels.builds import Build, builds_of
from megacode.kernels.cases.case import Case
from megacode.kernels.cases.run import launch_all
from megacode.kernels.offline import compiling_for
from megacode.kernels.roofline import GPUS, Gpu


@dataclass(frozen=True)
class Row:
    """What one build takes and what one launch of it costs.

    target:       "sm_80", "sm_90".
    registers:    a thread. spill_bytes: a thread. shared_bytes and warps: a program.
    occupancy:    share of a multiprocessor's warps that registers, shared memory and warps let it fill.
    tensor_cores: whether it computes on them.
    bytes:        read and written before any cache. least_bytes: each input and output element once.
    roofline_us:  no kernel is faster: flops at the GPU's peak (of its tensor cores where they are used), or least_bytes
                  at its memory's bandwidth.
    """

    kernel: str
    op: str
    shape: str
    target: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    warps: int
    occupancy: float
    tensor_cores: bool
    bytes: int
    least_bytes: int
    flops: int
    roofline_us: float

    @property
    def problem(self) -> str:
        """What keeps it from running well, or the empty string."""
        if self.spill_bytes:
            return f"spills {self.spill_bytes} bytes a thread"
        if not self.occupancy:
            return f"{self.shared_bytes:,} bytes of shared memory do not fit"
        return ""


def rows_of(case: Case, capability: int) -> Iterator[Row]:
    """Compile forward and backward of a case for compute capability 80 or 90, and yield a row per build.

    Raises KeyError where the case has no cost for a kernel that it launches, CannotCompile where this process cannot.
    """
    with compiling_for(capability) as launches:
        launch_all(case, torch.device("meta"))
    for build in builds_of(launches):
        yield _row(case, build, GPUS[capability])


def _row(case: Case, build: Build, gpu: Gpu) -> Row:
    cost = case.costs[build.name]
    return Row(
        kernel=build.name,
        op=case.op,
        shape=case.shape,
        target=f"sm_{gpu.capability}",
        registers=build.registers,
        spill_bytes=build.spilled,
        shared_bytes=build.shared,
        warps=build.warps,
        occupancy=gpu.occupancy(build.registers, build.shared, build.warps),
        tensor_cores=build.tensor_cores,
        bytes=cost.moved_bytes,
        least_bytes=cost.least_bytes,
        flops=cost.flops,
        roofline_us=gpu.roofline_us(cost.flops, cost.least_bytes, build.tensor_cores),
    )
