"""How fast an op runs on Triton and on its rivals, and how near the hardware's limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from megacode.kernels.builds import uses_tensor_cores
from megacode.kernels.cases.case import Case
from megacode.kernels.cases.run import gradients_of, outputs_of
from megacode.kernels.offline import Launch, recording_launches
from megacode.kernels.roofline import Gpu
from megacode.kernels.tuning import CannotLaunch, Clock
from megacode.prove.kernel_check.accuracy import SEED, received_gradients


@dataclass(frozen=True)
class Speed:
    """Of forward, or of forward and backward together.

    milliseconds:   by implementation, "triton" first; None where it could not run.
    tflops, gbytes: operations and least bytes of Triton's kernels a second, in 10^12 and 10^9.
    roofline_us:    the sum over its kernels of the least time of each; None where the GPU is not known.
    roofline_share: of Triton's time.
    """

    milliseconds: Mapping[str, float | None]
    tflops: float | None
    gbytes: float | None
    roofline_us: float | None
    roofline_share: float | None

    @property
    def times_as_fast(self) -> float | None:
        """The best rival's time over Triton's."""
        own = self.milliseconds["triton"]
        rivals = [time for name, time in self.milliseconds.items() if time is not None and name != "triton"]
        return min(rivals) / own if own and rivals else None


def speeds_of(
    case: Case,
    device: torch.device,
    gpu: Gpu | None,
    clock: Clock,
    failures: dict[str, str],
    rivals: bool = True,
) -> dict[str, Speed]:
    """Time "forward" and, where there is one, "forward_backward". `failures` gets why a rival could not run."""
    contenders = {"triton": case.triton, **(case.baselines if rivals else {})}
    passes = {"forward": False, "forward_backward": True} if case.has_backward else {"forward": False}
    speeds = {}
    for name, backward in passes.items():
        work = _work(case, case.triton, device, backward)
        work()  # compiles, and times tiles where it is asked to: no launch of that counts
        with recording_launches() as launches:
            work()
        milliseconds = {}
        for rival, function in contenders.items():
            try:
                milliseconds[rival] = clock.milliseconds(_work(case, function, device, backward))
            except (CannotLaunch, torch.OutOfMemoryError, RuntimeError) as error:
                if rival == "triton" or "CUDA error" in str(error):
                    raise
                milliseconds[rival] = None
                failures[f"{rival}, {name}"] = _first_line(error)
            torch.cuda.empty_cache()
        speeds[name] = _speed(case, launches, gpu, milliseconds)
    return speeds


def _work(case: Case, function: Callable[..., Any], device: torch.device, backward: bool) -> Callable[[], None]:
    """What is timed, on inputs of its own."""
    torch.manual_seed(SEED)
    inputs = case.make_inputs(device)
    if not backward:
        return lambda: outputs_of(function, inputs) and None
    received = received_gradients(outputs_of(function, inputs))

    def both() -> None:
        gradients_of(outputs_of(function, inputs), inputs, received)

    return both


def _speed(case: Case, launches: list[Launch], gpu: Gpu | None, milliseconds: Mapping[str, float | None]) -> Speed:
    own = milliseconds["triton"]
    assert own is not None
    costs = [(case.costs[launch.name], uses_tensor_cores(launch.binary)) for launch in launches]
    seconds = own / 1e3
    least = None
    if gpu is not None:
        least = sum(gpu.roofline_us(cost.flops, cost.least_bytes, matrix) for cost, matrix in costs)
    return Speed(
        milliseconds=milliseconds,
        tflops=sum(cost.flops for cost, _ in costs) / seconds / 1e12,
        gbytes=sum(cost.least_bytes for cost, _ in costs) / seconds / 1e9,
        roofline_us=least,
        roofline_share=None if least is None else least / (seconds * 1e6),
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
