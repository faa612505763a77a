"""When each action of a schedule starts and ends, given how long the passes take."""

from __future__ import annotations

from dataclasses import dataclass

from megacode.layout.schedules import Action, Kind, Schedule


@dataclass(frozen=True)
class Timed:
    """An action with its stage, start and end, in the unit of the durations."""

    stage: int
    action: Action
    start: float
    end: float


def simulate(schedule: Schedule, forward: float, backward: float, transfer: float = 0.0) -> tuple[Timed, ...]:
    """Play the schedule with equal stages and sends that do not block; returns the computations in order of start.

    `forward`, `backward` and `transfer` are the durations of one pass of one stage and of one message.
    Raises ValueError if a message is awaited that nobody sends.
    """
    arrival: dict[tuple[int, Action], float] = {}
    clock, position, timed = [0.0] * schedule.num_stages, [0] * schedule.num_stages, list[Timed]()
    duration = {Kind.FORWARD: forward, Kind.BACKWARD: backward}
    received_as = {Kind.SEND_ACTIVATION: Kind.RECV_ACTIVATION, Kind.SEND_GRADIENT: Kind.RECV_GRADIENT}
    moved = True
    while moved:
        moved = False
        for stage, actions in enumerate(schedule.stages):
            while position[stage] < len(actions):
                action = actions[position[stage]]
                if action.kind.computes:
                    end = clock[stage] + duration[action.kind]
                    timed.append(Timed(stage, action, clock[stage], end))
                    clock[stage] = end
                elif action.kind in received_as:
                    assert action.peer is not None
                    message = Action(received_as[action.kind], action.micro_batch, stage)
                    arrival[action.peer, message] = clock[stage] + transfer
                elif (stage, action) in arrival:
                    clock[stage] = max(clock[stage], arrival[stage, action])
                else:
                    break
                position[stage] += 1
                moved = True
    if any(at < len(schedule.stages[stage]) for stage, at in enumerate(position)):
        raise ValueError(f"schedule {schedule.name} waits for a message that nobody sends")
    return tuple(sorted(timed, key=lambda item: (item.start, item.stage)))


def bubble_fraction(timed: tuple[Timed, ...], num_stages: int) -> float:
    """The share of the step in which a stage waits, averaged over stages."""
    length = max(item.end for item in timed)
    busy = sum(item.end - item.start for item in timed)
    return 1.0 - busy / (num_stages * length)
