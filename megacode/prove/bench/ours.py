"""One rank of our own engine, trained on demand, with its step's time by phase.

forward, backward: this rank's passes, tensor-parallel communication included. pipeline_wait: receives. reduction:
summing gradients over dp, over tp (copied ones) and between tied embeddings. optimizer: norm, clip and update.
weight_gather: the shared embedding's new weights, where two stages hold it; every other part of the model waits for its
own in the forward pass. data: making the batch.
On a GPU the phases come from a step of their own, in which every action waits for the device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from megacode.config.load import parse_config
from megacode.config.schema import RunConfig
from megacode.layout.schedules import Action
from megacode.parallel.groups import Connector, joined_world
from megacode.prove.bench.bubble import Pass, simulated_bubble
from megacode.prove.peers.worker import Serve, Setup, work
from megacode.prove.synthetic import synthetic_plan
from megacode.train.assemble import Run, assemble, join_groups
from megacode.train.device import claim_device
from megacode.train.feed import Feed
from megacode.train.kernels import choose_kernels
from megacode.train.place import Place
from megacode.train.step import train_step


def run(setup: Setup, serve: Serve) -> None:
    """Join the world, build this rank's part of the run on made-up tokens, and serve steps."""
    config = parse_config(setup.config, "bench")
    place = Place(setup.rank, setup.world_size, setup.rank, setup.init_method)
    device, launch = claim_device(config.launch, place), config.launch
    with joined_world(
        launch.backend, place.rank, place.world_size, launch.timeout_seconds, place.init_method
    ) as connector:
        _serve_in_world(config, place.rank, device, connector, serve)


def _serve_in_world(
    config: RunConfig, rank: int, device: torch.device, connector: Connector | None, serve: Serve
) -> None:
    groups, plan = join_groups(config, rank, connector), synthetic_plan(config)
    kernels = choose_kernels(config, device.type)
    observer = PhaseObserver(device)
    engine = Engine(assemble(config, groups, Feed(plan, {}, ""), kernels, device, observer), observer)
    serve(engine.step, {"kernels": dict(kernels.name_by_op)}, engine.answer)


class PhaseObserver:
    """Keeps what the runner's actions of a step were and took; seconds on this machine's monotonic clock."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.watches = not self.on_gpu
        self.actions: list[tuple[Action, float, float]] = []

    def begin(self) -> None:
        """Forget the step before."""
        self.actions = []

    def __call__(self, action: Action, start: float, end: float) -> None:
        """Note one action; on a GPU it has only been launched, and is waited for here."""
        if self.watches:
            self.actions.append((action, start, self._now(end)))

    def _now(self, now: float) -> float:
        if not (self.on_gpu and self.watches):
            return now
        torch.cuda.synchronize()
        return time.perf_counter()


class Engine:
    """One rank's part of the run, answering orders."""

    def __init__(self, run: Run, observer: PhaseObserver) -> None:
        self._run, self._observer = run, observer

    def step(self, number: int) -> dict[str, Any]:
        """Train step `number` (from 1); tells the loss and, where they cost nothing, the phases."""
        self._observer.begin()
        report = train_step(self._run, number, False)
        told: dict[str, Any] = {"loss": report.loss}
        if self._observer.watches:
            told["phases"] = self._phases(report.seconds)
            told["passes"] = [_row(*item) for item in self._observer.actions if item[0].kind.computes]
        return told

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """`observe`: a step with phases whatever they cost; `simulate`: the schedule's bubble with given durations."""
        if order["do"] == "observe":
            return self._observed(order["step"])
        passes = [Pass(*row) for row in order["passes"]]
        return {"bubble": simulated_bubble(self._run.schedule, passes)}

    def _observed(self, number: int) -> dict[str, Any]:
        before, self._observer.watches = self._observer.watches, True
        start = time.perf_counter()
        told = self.step(number)
        self._observer.watches = before
        return {"step": number, "seconds": time.perf_counter() - start, **told}

    def _phases(self, seconds: dict[str, float]) -> dict[str, float]:
        """Seconds by phase; what is left of the step is nobody's here."""
        return {
            "forward": self._sum(lambda action: action.kind.computes and action.kind.value == "forward"),
            "backward": self._sum(lambda action: action.kind.computes and action.kind.value != "forward"),
            "pipeline_wait": self._sum(lambda action: action.kind.value.startswith("recv")),
            "reduction": seconds["reduce"],
            "optimizer": seconds["optimizer"],
            "weight_gather": seconds["weights"],
            "data": seconds["data"],
        }

    def _sum(self, belongs: Callable[[Action], bool]) -> float:
        return sum(end - start for action, start, end in self._observer.actions if belongs(action))


def _row(action: Action, start: float, end: float) -> list[Any]:
    return [action.kind.value, action.chunk, action.micro_batch, start, end]


if __name__ == "__main__":
    work(run, sys.argv[1])
