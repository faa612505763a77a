"""Pipeline schedules as data: for each stage, the ordered list of what it does.

The same list is executed by the runner, proven by `proofs`, timed by `simulate` and drawn by the report.
GPipe (Huang et al. 2018): all forwards, then all backwards. 1F1B (PipeDream-Flush, Narayanan et al. 2021, section
2.2): a stage holds at most p - stage micro-batches alive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

FORWARD_ONLY = "forward"


class Kind(Enum):
    """What an action does; the value is its name in files and pictures."""

    FORWARD = "forward"
    BACKWARD = "backward"
    RECV_ACTIVATION = "recv_activation"
    SEND_ACTIVATION = "send_activation"
    RECV_GRADIENT = "recv_gradient"
    SEND_GRADIENT = "send_gradient"

    @property
    def computes(self) -> bool:
        """Whether it keeps the device busy, rather than a link."""
        return self in (Kind.FORWARD, Kind.BACKWARD)


@dataclass(frozen=True)
class Action:
    """One thing that a stage does with one micro-batch; `peer` is the other stage of a send or receive."""

    kind: Kind
    micro_batch: int
    peer: int | None = None

    def __str__(self) -> str:
        return f"{self.kind.value} {self.micro_batch}" + ("" if self.peer is None else f" (stage {self.peer})")


@dataclass(frozen=True)
class Schedule:
    """`stages[i]` is what stage i does, in order."""

    name: str
    num_micro_batches: int
    stages: tuple[tuple[Action, ...], ...]

    @property
    def num_stages(self) -> int:
        """Pipeline stages."""
        return len(self.stages)


def make_schedule(name: str, num_stages: int, num_micro_batches: int) -> Schedule:
    """The named schedule (`1f1b` or `gpipe`) over `num_stages` and `num_micro_batches`.

    Raises ValueError for an unknown name or counts below 1.
    """
    orders = {"1f1b": _one_forward_one_backward, "gpipe": _all_forward_all_backward}
    if name not in orders:
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(orders)}")
    if num_stages < 1 or num_micro_batches < 1:
        raise ValueError(f"a schedule needs stages and micro-batches, not {num_stages} and {num_micro_batches}")
    computations = tuple(tuple(orders[name](stage, num_stages, num_micro_batches)) for stage in range(num_stages))
    return Schedule(name, num_micro_batches, _add_links(computations))


def forward_only(num_stages: int, num_micro_batches: int) -> Schedule:
    """Forward passes only, as validation runs them."""
    computations = (tuple(_forwards(range(num_micro_batches))),) * num_stages
    return Schedule(FORWARD_ONLY, num_micro_batches, _add_links(computations))


def _forwards(micro_batches: range) -> Iterator[Action]:
    return (Action(Kind.FORWARD, micro_batch) for micro_batch in micro_batches)


def _backwards(micro_batches: range) -> Iterator[Action]:
    return (Action(Kind.BACKWARD, micro_batch) for micro_batch in micro_batches)


def _all_forward_all_backward(stage: int, num_stages: int, count: int) -> Iterator[Action]:
    yield from _forwards(range(count))
    yield from _backwards(range(count))


def _one_forward_one_backward(stage: int, num_stages: int, count: int) -> Iterator[Action]:
    warm_up = min(num_stages - 1 - stage, count)
    yield from _forwards(range(warm_up))
    for index in range(count - warm_up):
        yield Action(Kind.FORWARD, warm_up + index)
        yield Action(Kind.BACKWARD, index)
    yield from _backwards(range(count - warm_up, count))


def _add_links(computations: tuple[tuple[Action, ...], ...]) -> tuple[tuple[Action, ...], ...]:
    return tuple(tuple(_with_links(computations, stage)) for stage in range(len(computations)))


def _with_links(computations: tuple[tuple[Action, ...], ...], stage: int) -> Iterator[Action]:
    """Put the receives before and the sends after each computation of `stage`.

    Between two computations a stage may both send a result and receive its next input. Where the neighbour does the
    same two the other way round at the same moment, two blocking sends would wait for each other for ever: there,
    even stages send first and odd stages receive first. Everywhere else sending first is what the neighbour awaits.
    """
    num_stages = len(computations)
    previous: Action | None = None
    pending: Action | None = None
    for action in computations[stage]:
        receive = _receive(action, stage, num_stages)
        mirrored = (
            previous is not None
            and pending is not None
            and receive is not None
            and receive.peer is not None
            and receive.peer == pending.peer
            and (action, previous) in pairwise(computations[receive.peer])
        )
        links = (receive, pending) if mirrored and stage % 2 else (pending, receive)
        yield from (link for link in links if link is not None)
        yield action
        previous, pending = action, _send(action, stage, num_stages)
    if pending is not None:
        yield pending


def _receive(action: Action, stage: int, num_stages: int) -> Action | None:
    if action.kind is Kind.FORWARD and stage > 0:
        return Action(Kind.RECV_ACTIVATION, action.micro_batch, stage - 1)
    if action.kind is Kind.BACKWARD and stage < num_stages - 1:
        return Action(Kind.RECV_GRADIENT, action.micro_batch, stage + 1)
    return None


def _send(action: Action, stage: int, num_stages: int) -> Action | None:
    if action.kind is Kind.FORWARD and stage < num_stages - 1:
        return Action(Kind.SEND_ACTIVATION, action.micro_batch, stage + 1)
    if action.kind is Kind.BACKWARD and stage > 0:
        return Action(Kind.SEND_GRADIENT, action.micro_batch, stage - 1)
    return None
