"""The share of a step in which pipeline stages compute nothing: measured, and as the schedule alone would make it.

Both count from the first pass's start to the last one's end on any stage. The simulation plays the very schedule that
ran with the median durations of its passes and messages that take no time; what is measured above it is transfer,
uneven passes and the operating system.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from megacode.layout.schedules import Action, Schedule
from megacode.layout.simulate import bubble_fraction, simulate


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
        return seconds[stage, action.kind.value, action.chunk]

    return bubble_fraction(simulate(schedule, duration), schedule.num_stages)
