"""Laws that a schedule must keep, checked on the very actions that will run."""

from __future__ import annotations

from types import MappingProxyType

from megacode.layout.schedules import FORWARD_ONLY, Action, Kind, Schedule

_ANSWER = MappingProxyType({Kind.SEND_ACTIVATION: Kind.RECV_ACTIVATION, Kind.SEND_GRADIENT: Kind.RECV_GRADIENT})


class ScheduleError(ValueError):
    """A schedule that breaks a law; the message names stage and action."""


def prove(schedule: Schedule) -> None:
    """Check completeness, causality and freedom from deadlock with blocking (rendezvous) sends.

    Raises ScheduleError with the first law broken.
    """
    for stage in range(schedule.num_stages):
        _prove_stage(schedule, stage)
    _prove_no_deadlock(schedule)


def peak_live_micro_batches(schedule: Schedule, stage: int) -> int:
    """The most micro-batches whose activations `stage` holds at once (1F1B: min(m, p - stage))."""
    live = peak = 0
    for action in schedule.stages[stage]:
        live += {Kind.FORWARD: 1, Kind.BACKWARD: -1}.get(action.kind, 0)
        peak = max(peak, live)
    return peak


def _prove_stage(schedule: Schedule, stage: int) -> None:
    first, last, seen = stage == 0, stage == schedule.num_stages - 1, set[Action]()
    trains = schedule.name != FORWARD_ONLY
    for action in schedule.stages[stage]:
        index = action.micro_batch
        needs = {
            Kind.FORWARD: None if first else Action(Kind.RECV_ACTIVATION, index, stage - 1),
            Kind.BACKWARD: Action(Kind.FORWARD, index) if last else Action(Kind.RECV_GRADIENT, index, stage + 1),
            Kind.SEND_ACTIVATION: Action(Kind.FORWARD, index),
            Kind.SEND_GRADIENT: Action(Kind.BACKWARD, index),
            Kind.RECV_GRADIENT: Action(Kind.SEND_ACTIVATION, index, stage + 1),
        }.get(action.kind)
        if needs is not None and needs not in seen:
            raise ScheduleError(f"stage {stage}: {action} comes before {needs}")
        if action in seen:
            raise ScheduleError(f"stage {stage}: {action} happens twice")
        seen.add(action)
    every = set(range(schedule.num_micro_batches))
    for kind in (Kind.FORWARD, *((Kind.BACKWARD,) if trains else ())):
        passed = {action.micro_batch for action in seen if action.kind is kind}
        if passed != every:
            missing, unknown = sorted(every - passed), sorted(passed - every)
            what = f"no pass for micro-batches {missing}" if missing else f"unknown micro-batches {unknown}"
            raise ScheduleError(f"stage {stage}: {kind.value}: {what}")


def _prove_no_deadlock(schedule: Schedule) -> None:
    position = [0] * schedule.num_stages
    while True:
        moved = False
        for stage, actions in enumerate(schedule.stages):
            while position[stage] < len(actions) and actions[position[stage]].kind.computes:
                position[stage] += 1
                moved = True
            if position[stage] < len(actions) and _meets(schedule, stage, position):
                peer = actions[position[stage]].peer
                assert peer is not None
                position[stage] += 1
                position[peer] += 1
                moved = True
        if not moved:
            break
    stuck = [
        f"stage {stage} at {schedule.stages[stage][at]}"
        for stage, at in enumerate(position)
        if at < len(schedule.stages[stage])
    ]
    if stuck:
        raise ScheduleError("deadlock: " + ", ".join(stuck))


def _meets(schedule: Schedule, stage: int, position: list[int]) -> bool:
    """Whether `stage` stands at a send whose receiver stands at the matching receive."""
    send = schedule.stages[stage][position[stage]]
    if send.kind not in _ANSWER or send.peer is None or position[send.peer] >= len(schedule.stages[send.peer]):
        return False
    return schedule.stages[send.peer][position[send.peer]] == Action(_ANSWER[send.kind], send.micro_batch, stage)
