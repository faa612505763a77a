"""What ranks do in the tests of the runner: train and validate under watch, and tell what was seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from megacode.config.schema import RunConfig
from megacode.layout.actions import Action, Kind
from megacode.parallel.groups import joined_world
from megacode.pipeline import runner
from megacode.pipeline.links import Links
from megacode.pipeline.runner import Runner
from megacode.prove.outcome import assemble_synthetic
from megacode.prove.ranks import run_ranks
from megacode.prove.synthetic import synthetic_plan
from megacode.train.step import train_step
from megacode.train.validate import validate

RECEIVES = (Kind.RECV_ACTIVATION, Kind.RECV_GRADIENT)


@dataclass
class Seen:
    """One rank's run, by step where a list.

    order: in step 1, what was begun in which order.  waits: there, each receive that was waited for and what came next.
    kept: outputs whose memory was still there after they had been sent.  left: what was in flight after a step.
    buffers: messages that the links had made.  tied: the embedding matrix at the end or ends that this rank holds.
    """

    planned: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    waits: list[tuple[Action, Action]] = field(default_factory=list)
    sent: int = 0
    kept: int = 0
    left: list[str] = field(default_factory=list)
    buffers: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    tied: list[dict[str, np.ndarray]] = field(default_factory=list)
    tied_group: int = 0


def watch(config: RunConfig, poison: bool = False) -> list[Seen]:
    """Every rank's run; with `poison`, memory is filled with nan as soon as it is given back to the links."""
    return run_ranks(config.parallel.world_size, _watch_rank, config, poison)


def _watch_rank(rank: int, world_size: int, init_method: str, config: RunConfig, poison: bool) -> Seen:
    seen, flights = Seen(), _record_flights()
    _record_memory(seen)
    if poison:
        _poison_what_is_given_back()
    with joined_world("gloo", rank, world_size, config.launch.timeout_seconds, init_method) as connector:
        run = assemble_synthetic(config, rank, connector)
        run = dataclasses.replace(
            run, feed=dataclasses.replace(run.feed, validation={"made up": {"made up": synthetic_plan(config)}})
        )
        seen.planned = [str(action) for action in run.schedule.stages[run.stage.index]]
        seen.tied_group = run.groups.tied.size
        stop_recording = _record_order(run.runner, run.schedule.stages[run.stage.index], seen)
        for step in range(1, config.train.steps + 1):
            report = train_step(run, step, False)
            stop_recording()
            seen.losses.append(report.loss)
            seen.norms.append(report.gradient_norm)
            seen.validation.append(validate(run)["made up"])
            seen.buffers.append(run.runner._links._made)
            seen.tied.append(
                {spec.name: weight.detach().numpy().copy() for spec, weight in run.stage.specs() if spec.is_shared}
            )
        for flight in flights:
            seen.left += [name for name, value in vars(flight).items() if name != "losses" and value]
        return seen


def _record_flights() -> list[Any]:
    """Every `_InFlight` from now on."""
    flights: list[Any] = []
    honest = runner._InFlight

    def make() -> Any:
        flights.append(honest())
        return flights[-1]

    runner._InFlight = make  # type: ignore[misc, assignment]
    return flights


def _record_memory(seen: Seen) -> None:
    """After each activation has gone, see whether something still holds it."""
    honest = Runner._send_activation

    def send(self: Runner, action: Action, work: Any, flight: Any) -> None:
        memory = StorageWeakRef(flight.outputs[action.micro_batch, action.chunk].untyped_storage())
        honest(self, action, work, flight)
        self._links.drain()
        seen.sent += 1
        seen.kept += not memory.expired() or (action.micro_batch, action.chunk) in flight.outputs

    Runner._send_activation = send  # type: ignore[method-assign]


def _poison_what_is_given_back() -> None:
    honest = Links.reuse

    def reuse(self: Links, message: Tensor) -> None:
        honest(self, message)
        with torch.no_grad():
            message.detach().fill_(float("nan"))

    Links.reuse = reuse  # type: ignore[method-assign]


def _record_order(watched: Runner, actions: tuple[Action, ...], seen: Seen) -> Callable[[], None]:
    """Note what `watched` does in which order, until what is returned is called."""
    receives = iter([str(action) for action in actions if action.kind in RECEIVES])
    waited: list[Action] = []
    start_receive = watched._links.start_receive

    def begin(stage: int) -> Callable[[], Tensor]:
        told = next(receives)
        assert told.endswith(f"(stage {stage})"), f"{told} from stage {stage}"
        seen.order.append(told)
        return start_receive(stage)

    def observe(action: Action, start: float, end: float) -> None:
        if action.kind in RECEIVES:
            waited.append(action)
            return
        seen.order.append(str(action))
        seen.waits += [(receive, action) for receive in waited]
        waited.clear()

    watched._links.start_receive = begin  # type: ignore[method-assign]
    watched._observe = observe

    def stop() -> None:
        watched._links.start_receive = start_receive  # type: ignore[method-assign]
        watched._observe = lambda action, start, end: None

    return stop
