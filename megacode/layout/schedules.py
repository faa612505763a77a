"""Pipeline schedules as data: for each stage, the ordered list of what it does.

The same list is executed by the runner, proven by `proofs`, timed by `simulate` and drawn by the report. `orders` says
what a stage computes in which order; here the messages are put between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType

from megacode.layout import orders
from megacode.layout.actions import FORWARD_ONLY, Action, Kind, Schedule
from megacode.layout.simulate import EqualStages, play
from megacode.layout.stages import Placement

__all__ = ["FORWARD_ONLY", "SCHEDULES", "Action", "Kind", "Schedule", "forward_only", "make_placement", "make_schedule"]

_ORDERS: MappingProxyType[str, Callable[[int, Placement, int], orders.Order]] = MappingProxyType(
    {
        "1f1b": orders.one_forward_one_backward,
        "gpipe": orders.gpipe,
        "interleaved": orders.interleaved,
        "zb-h1": orders.zero_bubble_h1,
        "zb-v": orders.zero_bubble_v,
    }
)

SCHEDULES = tuple(_ORDERS)


def make_placement(schedule_name: str, num_stages: int, num_chunks: int = 1) -> Placement:
    """Where a schedule expects the chunks.

    Raises ValueError for an unknown name, counts below 1, or chunks that the schedule cannot run.
    """
    if schedule_name not in _ORDERS:
        raise ValueError(f"unknown schedule {schedule_name!r}; known: {', '.join(_ORDERS)}")
    if num_chunks != 1 and schedule_name in ("1f1b", "gpipe", "zb-h1"):
        raise ValueError(f"schedule {schedule_name} runs 1 chunk per stage, not {num_chunks}")
    return Placement(num_stages, num_chunks, is_v=schedule_name == "zb-v")


def make_schedule(name: str, placement: Placement, num_micro_batches: int) -> Schedule:
    """The named schedule over the stages and chunks of `placement`.

    Raises ValueError for an unknown name, a placement that is not the schedule's, or no micro-batch.
    """
    if placement != (fitting := make_placement(name, placement.num_stages, placement.num_chunks)):
        raise ValueError(f"schedule {name} needs {fitting}, not {placement}")
    if num_micro_batches < 1:
        raise ValueError(f"a schedule needs micro-batches, not {num_micro_batches}")
    stages = range(placement.num_stages)
    computations = [list(_ORDERS[name](stage, placement, num_micro_batches)) for stage in stages]
    return Schedule(name, num_micro_batches, placement, _with_messages(computations, placement))


def forward_only(placement: Placement, num_micro_batches: int) -> Schedule:
    """Forward passes only, as validation runs them: those of the training schedule with this placement."""
    name = "zb-v" if placement.is_v else "gpipe" if placement.num_chunks == 1 else "interleaved"
    trained = make_schedule(name, placement, num_micro_batches)
    kept = (Kind.FORWARD, Kind.SEND_ACTIVATION, Kind.RECV_ACTIVATION)
    stages = tuple(tuple(action for action in actions if action.kind in kept) for actions in trained.stages)
    return Schedule(FORWARD_ONLY, num_micro_batches, placement, stages)


def _with_messages(computations: Sequence[Sequence[Action]], placement: Placement) -> tuple[tuple[Action, ...], ...]:
    """Put every message between the computations of its two stages.

    All computations are played as soon as they can be, and every message is one event at the moment its pass ends. That
    is one total order in which causes go before effects, and each stage's list is its part of it. So stages that send
    and receive with blocking calls can always do the earliest event that is left: no deadlock. And two stages see their
    messages in the same order: first in, first out.
    """
    events: list[tuple[float, bool, int, Action]] = []
    for item in play(computations, placement, EqualStages()):
        events.append((item.start, True, item.stage, item.action))
        events += [(item.end, False, stage, action) for stage, action in _message(item.stage, item.action, placement)]
    events.sort(key=lambda event: event[:2])  # stable, messages first: what a pass needs is there when it starts
    stages: list[list[Action]] = [[] for _ in computations]
    for _, _, stage, action in events:
        stages[stage].append(action)
    return tuple(tuple(actions) for actions in stages)


def _message(stage: int, action: Action, placement: Placement) -> tuple[tuple[int, Action], ...]:
    """The two ends of the message that a computation makes: (stage, send) and (stage, receive); empty if none."""
    if action.kind is Kind.FORWARD:
        other, kinds = placement.next(stage, action.chunk), (Kind.SEND_ACTIVATION, Kind.RECV_ACTIVATION)
    elif action.kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT):
        other, kinds = placement.previous(stage, action.chunk), (Kind.SEND_GRADIENT, Kind.RECV_GRADIENT)
    else:
        return ()
    if other is None or other[0] == stage:
        return ()
    send = Action(kinds[0], action.micro_batch, action.chunk, other[0])
    return ((stage, send), (other[0], Action(kinds[1], action.micro_batch, other[1], stage)))
