"""Contenders take turns: a few steps of one, then of the next, then back again, so that drift hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from megacode.layout.topology import Coordinates, Topology
from megacode.prove.bench.bubble import Pass, median_passes
from megacode.prove.bench.contenders import Contender
from megacode.prove.bench.world import ContenderFailed, World, started

STEPS_A_TURN = 2


@dataclass(frozen=True)
class Plan:
    """How long to measure, in optimizer steps of each contender."""

    steps: int
    warm_up: int

    def turns(self) -> list[int]:
        """Timed steps of each turn."""
        whole, rest = divmod(self.steps, STEPS_A_TURN)
        return [STEPS_A_TURN] * whole + [rest] * (rest > 0)


@dataclass
class Record:
    """What was seen of a contender, in order of turns; `rows[turn][rank][step]` is what a rank told of a step.

    gflops: the matmul probe before each turn, by rank. observed: steps that had phases taken (empty for peers).
    error: why it stopped, in one line.
    """

    contender: Contender
    about: dict[str, Any] = field(default_factory=dict)
    gflops: list[list[float]] = field(default_factory=list)
    rows: list[list[list[dict[str, Any]]]] = field(default_factory=list)
    observed: list[list[dict[str, Any]]] = field(default_factory=list)
    simulated_bubble: float | None = None
    error: str = ""


def measure(
    contenders: Sequence[Contender], plan: Plan, environment: Mapping[str, str], advance: Callable[[int], None]
) -> list[Record]:
    """Run all contenders on this machine; `advance(steps)` hears of progress. A contender's failure ends only its own.

    Those of one layout and precision take turns; then come those of the next, so that no others hold memory meanwhile.
    """
    cells: dict[tuple[str, str], list[Record]] = {}
    for contender in contenders:
        cells.setdefault(contender.cell, []).append(Record(contender))
    for records in cells.values():
        with ExitStack() as stack:
            _alternate(records, plan, environment, advance, stack)
    return [record for records in cells.values() for record in records]


def order_of_turn(turn: int, count: int) -> Sequence[int]:
    """Whose turn comes when: 0 .. count - 1, and backwards every other time, which cancels a steady drift."""
    return range(count) if turn % 2 == 0 else range(count - 1, -1, -1)


def _alternate(
    records: list[Record], plan: Plan, environment: Mapping[str, str], advance: Callable[[int], None], stack: ExitStack
) -> None:
    worlds: dict[int, World] = {}
    for index, record in enumerate(records):
        with _noting(record):
            worlds[index] = stack.enter_context(started(record.contender, environment))
    for index, record in _standing(records):
        with _noting(record):
            record.about = worlds[index].answers(range(record.contender.config.parallel.world_size), 1)[0][0]["ready"]
            worlds[index].ask(_steps(1, plan.warm_up), plan.warm_up)
        advance(plan.warm_up)
    first = plan.warm_up + 1
    for turn, steps in enumerate(plan.turns()):
        for index in order_of_turn(turn, len(records)):
            if not records[index].error:
                with _noting(records[index]):
                    _take_turn(worlds[index], records[index], first, steps)
            advance(steps)
        first += steps
    for index, record in _standing(records):
        if record.observed:
            with _noting(record):
                order = {"do": "simulate", "passes": passes(record)}
                record.simulated_bubble = worlds[index].ask_first(order)["bubble"]


def _standing(records: list[Record]) -> Iterator[tuple[int, Record]]:
    return ((index, record) for index, record in enumerate(records) if not record.error)


@contextmanager
def _noting(record: Record) -> Iterator[None]:
    """Keep a contender's failure in its record, and let the others go on."""
    try:
        yield
    except ContenderFailed as failure:
        record.error = str(failure)


def _take_turn(world: World, record: Record, first: int, steps: int) -> None:
    """Probe, do the steps, and where phases have their price, one step more for them."""
    record.gflops.append([answers[0]["gflops"] for answers in world.ask({"do": "probe"})])
    rows = world.ask(_steps(first, steps), steps)
    record.rows.append(rows)
    if "phases" in rows[0][0]:
        record.observed += [list(step) for step in zip(*rows, strict=True)]
    elif record.contender.is_ours:
        answers = world.ask({"do": "observe", "step": first + steps})
        record.observed.append([answer[0] for answer in answers])


def _steps(first: int, count: int) -> dict[str, Any]:
    return {"do": "steps", "first": first, "count": count}


def places(contender: Contender) -> list[Coordinates]:
    """Where each rank of a contender sits; peers are told by ours, whatever they make of it."""
    parallel = contender.config.parallel
    topology = Topology(parallel.tp, parallel.pp, parallel.dp, parallel.order)
    return [topology.coords(rank) for rank in range(parallel.world_size)]


def passes(record: Record) -> list[Pass]:
    """The median duration of every stage's passes, over its first tensor-parallel ranks and all observed steps."""
    firsts = [(rank, place.pp) for rank, place in enumerate(places(record.contender)) if place.tp == 0]
    return median_passes([(stage, step[rank]["passes"]) for step in record.observed for rank, stage in firsts])
