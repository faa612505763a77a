"""Runs all cases on this machine's GPU, one after another, and collects what they say."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

from megacode.errors import MegacodeError
from megacode.prove.kernel_check.worker import Work, Worker, compile_ahead

# A case takes seconds; one that takes this long hangs.
MOST_SECONDS_A_CASE = 60.0
MOST_COMPILERS = 12


class CannotCheck(MegacodeError):
    """This machine cannot run kernels."""

    exit_code = 2


def machine() -> dict[str, Any]:
    """What the numbers hold for. Raises CannotCheck where there is no GPU or no Triton."""
    import torch

    if not torch.cuda.is_available():
        raise CannotCheck("kernels check needs a CUDA GPU, and torch sees none here")
    try:
        import triton
    except ImportError as error:
        raise CannotCheck(f"kernels check needs Triton ({error}): pip install megacode[gpu]") from error
    major, minor = torch.cuda.get_device_capability()
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": 10 * major + minor,
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def check(work: Work, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Check every case on the current GPU within about `seconds`; `say` gets a line for each.

    Returns `machine`, `cases` (a record each, see `worker.check_case`), `seconds`, and `sound`: whether all of them ran
    and hold what they must. Raises CannotCheck where this machine cannot run kernels.
    """
    started = time.perf_counter()
    here = machine()
    records = list(_records(work, started + seconds, here["capability"], say))
    return {
        "machine": here,
        "seconds": time.perf_counter() - started,
        "sound": all(is_sound(record) for record in records),
        "cases": records,
    }


def is_sound(record: dict[str, Any]) -> bool:
    """Whether a case ran and holds what it must."""
    return record["error"] is None and record["accuracy"]["sound"]


def _records(work: Work, deadline: float, capability: int, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    from megacode.kernels.cases.registry import all_cases

    try:
        cases = all_cases(work.op)
    except ValueError as error:
        raise CannotCheck(str(error)) from error
    with Worker(work) as worker:  # starts while others compile
        compiling = time.perf_counter()
        for problem in compile_ahead(cases, work, capability, min(MOST_COMPILERS, os.cpu_count() or 1)):
            say(f"does not compile: {problem}")
        say(f"compiled {len(cases)} cases in {time.perf_counter() - compiling:.0f} s")
        for index, case in enumerate(cases):
            left = deadline - time.perf_counter()
            if left > 0:
                record = worker.run(index, case, min(MOST_SECONDS_A_CASE, left))
            else:
                record = {"op": case.op, "shape": case.shape, "error": "not run: time is up", "failures": {}}
            say(_line(record))
            yield record


def _line(record: dict[str, Any]) -> str:
    name = f"{record['op']}, {record['shape']}"
    if record["error"] is not None:
        return f"{name}: {record['error']}"
    accuracy, speed = record["accuracy"], record["speed"]
    verdict = "right" if accuracy["sound"] else "WRONG"
    times = ", ".join(f"{kind} {one['milliseconds']['triton']:.3f} ms" for kind, one in speed.items())
    error = f"{accuracy['worst']:.1e} of {accuracy['tolerance']:.0e}"
    return f"{name}: {verdict} ({error}), {times}, {record['seconds']:.1f} s"
