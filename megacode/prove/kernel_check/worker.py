"""Cases run in a process of their own: a kernel that hangs, or leaves the GPU's context broken, costs one case only."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TYPE_CHECKING, Any

from megacode.kernels.cases.case import Case

if TYPE_CHECKING:
    import torch

    from megacode.kernels.roofline import Gpu
    from megacode.kernels.tuning import Clock


@dataclass(frozen=True)
class Work:
    """What to do with each case.

    op:    which cases there are, see `all_cases`. quick: fewer timed runs. tune: time all candidate tiles too.
    """

    op: str | None = None
    quick: bool = False
    tune: bool = False


def check_case(case: Case, work: Work, device: torch.device, gpu: Gpu | None, clock: Clock) -> dict[str, Any]:
    """Run one case on a device: its accuracy, its speed, its tiles, or the error that ended it."""
    from megacode.prove.kernel_check.accuracy import accuracy_of
    from megacode.prove.kernel_check.speed import speeds_of
    from megacode.prove.kernel_check.tiles import Sweep, choosing_by

    record: dict[str, Any] = {"op": case.op, "shape": case.shape, "error": None, "failures": {}}
    started = time.perf_counter()
    try:
        accuracy = accuracy_of(case, device)
        record["accuracy"] = {**asdict(accuracy), "worst": accuracy.worst, "sound": accuracy.sound}
        record["speed"] = _as_dicts(speeds_of(case, device, gpu, clock, record["failures"]))
        if work.tune:
            sweep = Sweep(clock)
            with choosing_by(sweep):
                tuned = speeds_of(case, device, gpu, clock, {}, rivals=False)
            record["tiles"] = sweep.timings
            record["tuned"] = _as_dicts(tuned) if sweep.timings else {}
    except Exception as error:  # the next case still runs, and this one's record says why it lacks numbers
        record["error"] = f"{type(error).__name__}: {error}"
        record["traceback"] = traceback.format_exc()
    record["seconds"] = time.perf_counter() - started
    return record


def _as_dicts(speeds: dict[str, Any]) -> dict[str, Any]:
    return {name: {**asdict(speed), "times_as_fast": speed.times_as_fast} for name, speed in speeds.items()}


def serve(connection: Connection, work: Work) -> None:
    """Answer the index of a case with its record until the other side ends; ends where the GPU no longer answers."""
    import torch

    from megacode.kernels.cases.registry import all_cases
    from megacode.kernels.roofline import gpu_of
    from megacode.kernels.stopwatch import CudaStopwatch

    device = torch.device("cuda", torch.cuda.current_device())
    major, minor = torch.cuda.get_device_capability(device)
    gpu = gpu_of(10 * major + minor, torch.cuda.get_device_name(device))
    clock = CudaStopwatch(device, runs=5 if work.quick else 11)
    cases = all_cases(work.op)
    while (index := connection.recv()) is not None:
        record = check_case(cases[index], work, device, gpu, clock)
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            record["error"] = record["error"] or f"the GPU's context broke: {error}"
            connection.send(record)
            return
        connection.send(record)


class Worker:
    """One process that runs cases, replaced where it hangs or dies. A context manager.

    serve: what runs in it, see `serve`. start: how it starts; CUDA does not survive a fork.
    """

    def __init__(self, work: Work, serve: Callable[[Connection, Work], None] = serve, start: str = "spawn") -> None:
        self._work = work
        self._serve = serve
        self._context: Any = multiprocessing.get_context(start)
        self._start()

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=self._serve, args=(theirs, self._work), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, index: int, case: Case, seconds: float) -> dict[str, Any]:
        """Return the record of case `index`; it ends after `seconds`."""
        try:
            self._connection.send(index)
            if self._connection.poll(seconds):
                return self._connection.recv()
            reason = f"stopped after {seconds:.1f} s"
        except (EOFError, OSError) as error:
            self._process.join(5)
            reason = f"its process ended with {self._process.exitcode} ({error or 'nothing said'})"
        self._stop()
        self._start()
        return {"op": case.op, "shape": case.shape, "error": reason, "failures": {}}

    def _stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()


def compile_case(index: int, work: Work, capability: int) -> None:
    """Compile the kernels of a case into Triton's cache on disk, where a GPU's process finds them."""
    import contextlib

    import torch

    from megacode.kernels.cases.registry import all_cases
    from megacode.kernels.cases.run import launch_all
    from megacode.kernels.offline import compiling_for
    from megacode.prove.kernel_check.tiles import EveryCandidate, choosing_by

    chooses = choosing_by(EveryCandidate()) if work.tune else contextlib.nullcontext()
    with compiling_for(capability), chooses:
        launch_all(all_cases(work.op)[index], torch.device("meta"))


def compile_ahead(cases: Sequence[Case], work: Work, capability: int, processes: int) -> list[str]:
    """Compile all cases in parallel; returns what went wrong, a line each, for the case itself will fail too."""
    problems = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(cases)), context) as pool:
        futures = [pool.submit(compile_case, index, work, capability) for index in range(len(cases))]
        for case, future in zip(cases, futures, strict=True):
            if error := future.exception():
                problems.append(f"{case.op}, {case.shape}: {type(error).__name__}: {error}")
    return problems
