"""The share of a step in which pipeline stages compute nothing: measured, and as the schedule alone would make it.

Both count from the first pass's start to the last one's end on any stage. The simulation plays the very schedule that
ran with the median durations of its passes and messages that take no time; what is measured above it is transfer,
uneven passes and the operating system.
"""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from megacode.layout.schedules import Action, Kind, Schedule
from megacode.layout.simulate import Timed, bubble_fraction, simulate

Durations = Callable[[int, Action], float]


class Pass(NamedTuple):
    """How long stage `stage` computes for an action of `kind` (its name) on model chunk `chunk`."""

    stage: int
    kind: str
    chunk: int
    seconds: float


def measured_bubble(stages: Sequence[Sequence[Sequence[Any]]]) -> float:
    """1 - busy / (stages x span) of one step; for each stage rows (kind, chunk, micro-batch, start, end).

    The clocks of all stages must be one: processes of one machine.
    """
    rows = [row for stage in stages for row in stage]
    span = max(row[4] for row in rows) - min(row[3] for row in rows)
    return 1.0 - sum(row[4] - row[3] for row in rows) / (len(stages) * span)


def median_passes(steps: Sequence[tuple[int, Sequence[Sequence[Any]]]]) -> list[Pass]:
    """The median duration of each stage's passes by kind and chunk, from (stage, rows) of many steps."""
    found: dict[tuple[int, str, int], list[float]] = {}
    for stage, rows in steps:
        for kind, chunk, _, start, end in rows:
            found.setdefault((stage, kind, chunk), []).append(end - start)
    return [Pass(*key, statistics.median(seconds)) for key, seconds in sorted(found.items())]


def simulated_bubble(schedule: Schedule, passes: Sequence[Pass]) -> float:
    """The bubble of `schedule` when its passes take as long as measured."""
    seconds = {(one.stage, one.kind, one.chunk): one.seconds for one in passes}

    def duration(stage: int, action: Action) -> float:
        return seconds[stage, action.kind.value, getattr(action, "chunk", 0)]

    return bubble_fraction(_play(schedule, duration), schedule.num_stages)


def _play(schedule: Schedule, durations: Durations) -> tuple[Timed, ...]:
    """`simulate` as it will be; while it takes one duration for all stages, the mean over stages stands in."""
    if "durations" in inspect.signature(simulate).parameters:
        return simulate(schedule, durations=durations, transfer=0.0)  # type: ignore[call-arg]
    mean = {
        kind: statistics.fmean(durations(stage, Action(kind, 0)) for stage in range(schedule.num_stages))
        for kind in (Kind.FORWARD, Kind.BACKWARD)
    }
    return simulate(schedule, forward=mean[Kind.FORWARD], backward=mean[Kind.BACKWARD])
