"""When each action of a schedule starts and ends, given how long the passes take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megacode.layout.actions import Action, Kind, Schedule
from megacode.layout.stages import Placement

Durations = Callable[[int, Action], float]


@dataclass(frozen=True)
class EqualStages:
    """The same durations on every stage: seconds of one micro-batch through a whole stage, all its chunks together.

    A pass of one of `num_chunks` chunks takes its share; a whole backward pass is the input and the weight part.
    """

    forward: float = 1.0
    backward_input: float = 1.0
    backward_weight: float = 1.0
    num_chunks: int = 1

    @property
    def total(self) -> float:
        """Seconds of one micro-batch, forward and backward."""
        return self.forward + self.backward_input + self.backward_weight

    def __call__(self, stage: int, action: Action) -> float:
        """Seconds of one pass."""
        whole = {
            Kind.FORWARD: self.forward,
            Kind.BACKWARD: self.backward_input + self.backward_weight,
            Kind.BACKWARD_INPUT: self.backward_input,
            Kind.BACKWARD_WEIGHT: self.backward_weight,
        }
        return whole[action.kind] / self.num_chunks


@dataclass(frozen=True)
class Timed:
    """An action with its stage, start and end, in the unit of the durations."""

    stage: int
    action: Action
    start: float
    end: float


def simulate(schedule: Schedule, durations: Durations, transfer: float = 0.0) -> tuple[Timed, ...]:
    """Play the schedule with sends that do not block and receives posted early; the computations by their start.

    `durations(stage, action)` is how long a computation takes, and `transfer` how long a message, which leaves when the
    pass that makes it ends. Raises ValueError if a computation waits for one that never comes.
    """
    orders = [[action for action in actions if action.kind.computes] for actions in schedule.stages]
    timed = play(orders, schedule.placement, durations, transfer)
    return tuple(sorted(timed, key=lambda item: (item.start, item.stage)))


def play(
    orders: Sequence[Sequence[Action]], placement: Placement, durations: Durations, transfer: float = 0.0
) -> list[Timed]:
    """Each stage's computations as soon as its order and their inputs allow; those of one stage in its order."""
    ended: dict[tuple[bool, int, int], float] = {}
    clock, position, timed = [0.0] * len(orders), [0] * len(orders), list[Timed]()
    virtual = [
        [placement.virtual_stage(stage, chunk) for chunk in range(placement.num_chunks)]
        for stage in range(placement.num_stages)
    ]
    stage_of = [placement.at(at)[0] for at in range(placement.num_virtual_stages)]
    moved = True
    while moved:
        moved = False
        for stage, actions in enumerate(orders):
            while position[stage] < len(actions):
                action = actions[position[stage]]
                at, start = virtual[stage][action.chunk], clock[stage]
                is_forward = action.kind is Kind.FORWARD
                cause = at - 1 if is_forward else at + 1
                if action.kind is not Kind.BACKWARD_WEIGHT and 0 <= cause < len(stage_of):
                    arrival = ended.get((is_forward, cause, action.micro_batch))
                    if arrival is None:
                        break
                    start = max(start, arrival + (transfer if stage_of[cause] != stage else 0.0))
                clock[stage] = end = start + durations(stage, action)
                if action.kind is not Kind.BACKWARD_WEIGHT:
                    ended[is_forward, at, action.micro_batch] = end
                timed.append(Timed(stage, action, start, end))
                position[stage] += 1
                moved = True
    stuck = [f"stage {s} at {orders[s][at]}" for s, at in enumerate(position) if at < len(orders[s])]
    if stuck:
        raise ValueError("computations that wait for ever: " + ", ".join(stuck))
    return timed


def bubble_fraction(timed: tuple[Timed, ...], num_stages: int) -> float:
    """The share of the step in which a stage waits, averaged over stages."""
    length = max(item.end for item in timed)
    busy = sum(item.end - item.start for item in timed)
    return 1.0 - busy / (num_stages * length)
