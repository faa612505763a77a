"""Times GPU work with CUDA events: a median over runs that find the L2 cache cold and the queue of launches full."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.runtime.errors import OutOfResources, PTXASError

from megacode.kernels.tuning import CannotLaunch

FLUSH_BYTES = 256 << 20  # beyond every L2 cache: A100 has 40 MiB, H100 50, B200 126
# Zeroing that takes no GPU much less than this, so that a count of it outlasts the host's launching.
_SECONDS_A_FLUSH = 75e-6
_MOST_FLUSHES = 32


class CudaStopwatch:
    """Times work on one CUDA device.

    device:     the current one by default.
    runs:       timed runs; their median counts.
    most_seconds: no further run starts once timing has taken this long; at least one is timed.
    """

    def __init__(self, device: torch.device | None = None, runs: int = 7, most_seconds: float = 1.0) -> None:
        self.device = device or torch.device("cuda", torch.cuda.current_device())
        self.runs = runs
        self.most_seconds = most_seconds

    @property
    def machine(self) -> str:
        """The GPU's name and the version of Triton."""
        return f"{torch.cuda.get_device_name(self.device)}, triton {triton.__version__}"

    def milliseconds(self, work: Callable[[], Any]) -> float:
        """Return the median time of `work`, after two runs to compile and to warm up.

        Raises CannotLaunch where a kernel wants more shared memory, registers or memory than there is.
        """
        try:
            with torch.cuda.device(self.device):
                return self._median(work)
        except (OutOfResources, PTXASError, torch.OutOfMemoryError) as error:
            raise CannotLaunch(str(error)) from error

    def _median(self, work: Callable[[], Any]) -> float:
        cold = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=self.device)
        work()
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        launching = time.perf_counter() - started
        torch.cuda.synchronize()
        # While the GPU zeroes, the host launches all of the work: its own pace is no part of the time.
        flushes = min(_MOST_FLUSHES, 1 + int(1.5 * launching / _SECONDS_A_FLUSH))
        times: list[float] = []
        while len(times) < self.runs and (not times or time.perf_counter() - started < self.most_seconds):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(flushes):
                cold.zero_()
            start.record()
            work()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        return statistics.median(times)
