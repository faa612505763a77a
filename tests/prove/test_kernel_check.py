"""The check of kernels on a GPU, here on the CPU with made-up operations: it finds what is wrong, and goes on."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from torch import Tensor

from megacode.kernels.cases.case import Case
from megacode.kernels.roofline import GPUS, gpu_of
from megacode.kernels.tuning import FIXED, CannotLaunch
from megacode.prove.kernel_check.accuracy import accuracy_of
from megacode.prove.kernel_check.check import is_sound
from megacode.prove.kernel_check.table import render
from megacode.prove.kernel_check.tiles import EveryCandidate, Sweep, choosing_by
from megacode.prove.kernel_check.worker import Work, Worker, check_case

CPU = torch.device("cpu")


class WallClock:
    """A clock of this process."""

    machine = "this CPU"

    def milliseconds(self, work: Callable[[], Any]) -> float:
        started = time.perf_counter()
        work()
        return (time.perf_counter() - started) * 1e3


def make_inputs(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.randn(6, 8, device=device, requires_grad=True), torch.randn(8, device=device, requires_grad=True)


def product(x: Tensor, scale: Tensor) -> Tensor:
    return x * scale


def case(on_triton: Callable[..., Any], **changes: Any) -> Case:
    """A case whose "Triton" is a torch function."""
    made = Case("product", "6 x 8", make_inputs, on_triton, product, {}, 1e-6, baselines={"torch": product})
    return replace(made, **changes)


def with_wrong_gradient(x: Tensor, scale: Tensor) -> Tensor:
    out = x * scale
    return out + (0.01 * (scale - scale.detach()))


def leaves_an_element_out(x: Tensor, scale: Tensor) -> Tensor:
    out = torch.empty(6, 8)
    out[:, :7] = (x * scale)[:, :7]
    return out


def over_its_input(x: Tensor, scale: Tensor) -> Tensor:
    with torch.no_grad():
        return x.mul_(scale)


def test_a_right_op_is_right() -> None:
    accuracy = accuracy_of(case(product), CPU)
    assert accuracy.sound and accuracy.worst == 0.0 and accuracy.against == "reference"
    assert (len(accuracy.outputs), len(accuracy.gradients)) == (1, 2)


def test_an_op_that_writes_over_its_input_is_compared_on_fresh_ones() -> None:
    assert accuracy_of(case(over_its_input, has_backward=False), CPU).sound


@pytest.mark.parametrize(
    ("wrong", "outputs", "gradients"),
    [
        (lambda x, scale: x * scale * 1.01, (0.01,), (0.01, 0.01)),
        (with_wrong_gradient, (0.0,), (0.0, 0.01)),
    ],
    ids=["all", "one gradient"],
)
def test_errors_are_shares_of_the_largest_element(
    wrong: Callable[..., Any], outputs: tuple[float, ...], gradients: tuple[float, ...]
) -> None:
    accuracy = accuracy_of(case(wrong), CPU)
    assert not accuracy.sound and accuracy.outputs == pytest.approx(outputs, rel=0.1)
    assert [error > 1e-3 for error in accuracy.gradients] == [error > 1e-3 for error in gradients]


def test_an_element_that_is_not_written_shows() -> None:
    accuracy = accuracy_of(case(leaves_an_element_out, has_backward=False), CPU)
    assert math.isinf(accuracy.worst) and not accuracy.sound
    assert not torch.are_deterministic_algorithms_enabled()


def test_results_that_do_not_repeat_are_a_finding() -> None:
    calls = iter(range(9))
    wobbling = case(lambda x, scale: x * scale * (1 + 1e-7 * next(calls)), tolerance=1e-3)
    accuracy = accuracy_of(wobbling, CPU)
    assert accuracy.worst < 1e-3 and not accuracy.repeats and not accuracy.sound


def test_a_baseline_stands_in_for_a_definition_that_does_not_fit() -> None:
    def too_large(x: Tensor, scale: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("too large")

    assert accuracy_of(case(product, reference=too_large), CPU).against == "torch"


def record_of(one: Case, tune: bool = False) -> dict[str, Any]:
    return check_case(one, Work(tune=tune), CPU, GPUS[90], WallClock())


def test_a_record_has_times_and_a_rival_that_fails_is_noted_only() -> None:
    def fails(x: Tensor, scale: Tensor) -> Tensor:
        raise RuntimeError("no kernel\nfor this")

    record = record_of(case(product, baselines={"torch": product, "other": fails}))
    assert is_sound(record), record
    assert set(record["speed"]) == {"forward", "forward_backward"}
    assert record["speed"]["forward"]["milliseconds"]["other"] is None
    assert record["failures"] == {"other, forward": "no kernel", "other, forward_backward": "no kernel"}
    assert json.loads(json.dumps(record)) is not None


def test_an_error_is_recorded() -> None:
    def broken(x: Tensor, scale: Tensor) -> Tensor:
        raise KeyError("sizes")

    record = record_of(case(broken))
    assert not is_sound(record) and record["error"] == "KeyError: 'sizes'" and "broken" in record["traceback"]


def test_the_table_says_what_is_wrong() -> None:
    records = [record_of(case(product)), record_of(case(lambda x, scale: x * scale * 1.01))]
    records.append({"op": "late", "shape": "1", "error": "not run: time is up", "failures": {}})
    here = {"gpu": "NVIDIA H100", "torch": "2.13", "triton": "3.7.1", "cuda": "13.0"}
    text = render({"machine": here, "seconds": 1.0, "cases": records})
    assert "NVIDIA H100, torch 2.13, triton 3.7.1" in text
    assert text.count("WRONG") == 2 and "- late, 1: not run: time is up" in text


def tiled(x: Tensor, scale: Tensor) -> Tensor:
    """An op that lets the default chooser pick; a tile that cannot launch raises."""

    def run(tile: str) -> Tensor:
        if tile == "huge":
            raise CannotLaunch("huge")
        time.sleep(0.02 if tile == "slow" else 0.0)
        return x * scale

    return run(FIXED.choose("product", (6, 8), ("slow", "fast", "huge"), run))


def test_a_sweep_times_every_tile_and_uses_the_fastest() -> None:
    record = record_of(case(tiled), tune=True)
    (row,) = record["tiles"]
    assert (row["op"], row["key"]) == ("product", [6, 8])
    assert row["milliseconds"]["'huge'"] is None and row["milliseconds"]["'slow'"] > row["milliseconds"]["'fast'"]
    slow, fast = (record[name]["forward"]["milliseconds"]["triton"] for name in ("speed", "tuned"))
    assert fast < slow / 2
    assert FIXED.choose("product", (), ("first", "second"), lambda tile: None) == "first"


def test_a_sweep_without_a_tile_that_launches_says_so() -> None:
    def launch(tile: str) -> None:
        raise CannotLaunch(tile)

    with pytest.raises(CannotLaunch, match="none of the candidates of op"):
        Sweep(WallClock()).choose("op", (), ("one", "two"), launch)


def test_compiling_ahead_launches_every_candidate() -> None:
    launched: list[str] = []
    with choosing_by(EveryCandidate()):
        chosen = FIXED.choose("op", (), ("one", "two", "three"), launched.append)
    assert chosen == "one" and launched == ["two", "three"]


def serve(connection: Connection, work: Work) -> None:
    """A worker's process: case 0 is well, case 1 kills it, case 2 hangs."""
    while True:
        index = connection.recv()
        if index == 1:
            os._exit(7)
        if index == 2:
            time.sleep(60)
        connection.send({"op": "product", "shape": str(index), "error": None, "failures": {}})


def test_a_case_that_kills_or_hangs_its_process_costs_itself_only() -> None:
    with Worker(Work(), serve, "fork") as worker:
        errors = [worker.run(index, case(product), 0.5)["error"] for index in (0, 1, 0, 2, 0)]
    assert errors[0] is errors[2] is errors[4] is None
    assert "ended with 7" in errors[1] and errors[3] == "stopped after 0.5 s"


def test_peaks_are_those_of_the_gpu_that_is_there() -> None:
    assert gpu_of(90, "NVIDIA H100 80GB HBM3") == GPUS[90]
    h200 = gpu_of(90, "NVIDIA H200")
    assert h200 is not None and h200.bandwidth == 4.8e12
    assert gpu_of(90, "NVIDIA H100 PCIe") is None and gpu_of(89, "NVIDIA L4") is None
