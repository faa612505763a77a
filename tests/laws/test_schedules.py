"""Laws of the schedules for 1 to 8 stages, 1 to 4 chunks and 1 to 32 micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import pytest

from megacode.layout.bubbles import bubble_formula
from megacode.layout.proofs import peak_live_micro_batches, peak_waiting_weight_passes, prove
from megacode.layout.schedules import Action, Kind, Schedule, forward_only, make_placement, make_schedule
from megacode.layout.simulate import EqualStages, bubble_fraction, simulate
from megacode.layout.stages import Placement

CASES = (
    *(("1f1b", 1), ("gpipe", 1), ("zb-h1", 1), ("zb-v", 2)),
    *(("interleaved", chunks) for chunks in range(1, 5)),
)
STAGES = range(1, 9)
MICRO_BATCHES = range(1, 33)
Node = tuple[object, ...]


@dataclass(frozen=True)
class Family:
    """A schedule's name and placement, and its schedules by their number of micro-batches."""

    name: str
    placement: Placement
    schedules: dict[int, Schedule]

    @property
    def stages(self) -> int:
        return self.placement.num_stages


@pytest.fixture(
    scope="module",
    params=[(*case, stages) for case in CASES for stages in STAGES],
    ids=lambda case: f"{case[0]}-v{case[1]}-p{case[2]}",
)
def family(request: pytest.FixtureRequest) -> Family:
    """Made once for all laws of a family: making them is most of the work."""
    name, chunks, stages = request.param
    placement = make_placement(name, stages, chunks)
    return Family(name, placement, {count: make_schedule(name, placement, count) for count in MICRO_BATCHES})


def _node(placement: Placement, action: Action, stage: int) -> Node:
    """The node of an action; a blocking send and its receive are one node, for they happen together."""
    if action.peer is None:
        return (stage, action)
    what = "activation" if action.kind in (Kind.SEND_ACTIVATION, Kind.RECV_ACTIVATION) else "gradient"
    at = placement.virtual_stage(stage, action.chunk)
    sends = action.kind in (Kind.SEND_ACTIVATION, Kind.SEND_GRADIENT)
    sender = at if sends else at + (1 if what == "gradient" else -1)
    return (what, action.micro_batch, sender)


def runs_to_its_end_with_blocking_sends(schedule: Schedule) -> bool:
    """Deadlock as a cycle of the graph `each action after the one before it`, independently of the prover's play."""
    graph = TopologicalSorter[Node]()
    for stage, actions in enumerate(schedule.stages):
        for before, after in pairwise([_node(schedule.placement, action, stage) for action in actions]):
            graph.add(after, before)
    try:
        graph.prepare()
    except CycleError:
        return False
    return True


def test_the_prover_accepts_every_schedule(family: Family) -> None:
    """Complete, causal, first in first out, and free of deadlock."""
    for schedule in family.schedules.values():
        prove(schedule)


@pytest.mark.parametrize(("name", "chunks"), [("1f1b", 1), ("interleaved", 3), ("zb-v", 2)])
@pytest.mark.parametrize("stages", STAGES)
def test_the_prover_accepts_validations_forward_passes(name: str, chunks: int, stages: int) -> None:
    for count in (1, 2, stages, stages + 1, 2 * stages, 19):
        schedule = forward_only(make_placement(name, stages, chunks), count)
        prove(schedule)
        kinds = {action.kind for actions in schedule.stages for action in actions}
        assert kinds <= {Kind.FORWARD, Kind.SEND_ACTIVATION, Kind.RECV_ACTIVATION}


@pytest.mark.parametrize(("name", "chunks"), CASES)
@pytest.mark.parametrize("stages", [1, 2, 3, 5, 8])
def test_no_deadlock_by_a_second_way(name: str, chunks: int, stages: int) -> None:
    placement = make_placement(name, stages, chunks)
    for count in (1, 2, stages, stages + 1, 2 * stages, 19):
        assert runs_to_its_end_with_blocking_sends(make_schedule(name, placement, count)), count
        assert runs_to_its_end_with_blocking_sends(forward_only(placement, count)), count


def test_every_micro_batch_passes_every_chunk_once_each_way(family: Family) -> None:
    splits, chunks = family.name.startswith("zb"), family.placement.num_chunks
    kinds = (Kind.FORWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT) if splits else (Kind.FORWARD, Kind.BACKWARD)
    for count, schedule in family.schedules.items():
        expected = {Action(kind, index, chunk) for kind in kinds for chunk in range(chunks) for index in range(count)}
        for actions in schedule.stages:
            passes = [action for action in actions if action.kind.computes]
            assert len(passes) == len(expected) and set(passes) == expected, count


def _most_live(family: Family, stage: int, count: int) -> int:
    """The papers' activations in flight on `stage`, in chunks of one micro-batch.

    1F1B: Narayanan et al. 2021, 2.2. Interleaved: Megatron's warm-up and the one that follows. ZB-H1: p on every stage;
    ZB-V: 2p half ones (Qi et al. 2023).
    """
    stages, chunks = family.stages, family.placement.num_chunks
    group = -(-count // max(1, count // stages))  # p where it divides their number
    return {
        "gpipe": count,
        "1f1b": min(count, stages - stage),
        "interleaved": min(count * chunks, 2 * (stages - 1 - stage) + (chunks - 1) * group + 1),
        "zb-h1": min(count, stages),
        "zb-v": min(2 * count, 2 * stages),
    }[family.name]


def test_live_activations(family: Family) -> None:
    for count, schedule in family.schedules.items():
        is_exact = family.name != "zb-v" or count >= 2 * family.stages
        for stage in range(family.stages):
            live, most = peak_live_micro_batches(schedule, stage), _most_live(family, stage, count)
            assert live == most if is_exact else live <= most, (count, stage)


def test_waiting_weight_passes(family: Family) -> None:
    """ZB-H1 keeps up to `stage` micro-batches and the one at hand between the two passes; ZB-V half ones, twice."""
    for count, schedule in family.schedules.items():
        for stage in range(family.stages):
            waiting = peak_waiting_weight_passes(schedule, stage)
            if family.name == "zb-h1":
                assert waiting == min(count, stage + 1)
            elif family.name == "zb-v":
                assert waiting <= 2 * stage + 1
            else:
                assert waiting == 0


EQUAL, UNEQUAL = (1.0, 1.0, 1.0), (2.0, 3.5, 1.5)


def test_the_bubble_is_the_papers(family: Family) -> None:
    """For all durations; ZB-H1's for W <= B, ZB-V's for F = B = W, which its paper supposes."""
    name, stages = family.name, family.stages
    times = EQUAL if name == "zb-v" else UNEQUAL
    passes = EqualStages(*times, num_chunks=family.placement.num_chunks)
    for count, schedule in family.schedules.items():
        measured = bubble_fraction(simulate(schedule, passes), stages)
        formula = bubble_formula(name, family.placement, count, passes)
        holds = {"interleaved": count >= stages, "zb-h1": count >= stages, "zb-v": count >= 2 * stages}
        if holds.get(name, True):
            assert measured == pytest.approx(formula, abs=1e-12), count
        else:
            assert measured >= formula - 1e-12, count


@pytest.mark.parametrize("stages", range(2, 9))
def test_zb_v_waits_for_nothing_but_its_first_micro_batch(stages: int) -> None:
    placement, passes = make_placement("zb-v", stages, 2), EqualStages(num_chunks=2)
    for count in range(2 * stages, 33):
        timed = simulate(make_schedule("zb-v", placement, count), passes)
        for stage in range(stages):
            own = [item for item in timed if item.stage == stage]
            assert own[0].start == stage * 0.5
            assert all(after.start == before.end for before, after in pairwise(own)), (count, stage)


@pytest.mark.parametrize("stages", STAGES)
def test_more_chunks_and_split_backward_passes_never_wait_longer(stages: int) -> None:
    for count in (2 * stages, 2 * stages + 1, 32):
        bubbles = []
        for name, chunks in (("1f1b", 1), ("zb-h1", 1), ("zb-v", 2)):
            schedule = make_schedule(name, make_placement(name, stages, chunks), count)
            bubbles.append(bubble_fraction(simulate(schedule, EqualStages(num_chunks=chunks)), stages))
        assert bubbles == sorted(bubbles, reverse=True)


@pytest.mark.parametrize(("name", "chunks"), [("1f1b", 1), ("interleaved", 3), ("zb-h1", 1), ("zb-v", 2)])
def test_simulated_passes_respect_their_causes(name: str, chunks: int) -> None:
    """With stages of measured, unequal durations and slow messages."""
    placement = make_placement(name, 4, chunks)
    seconds = {Kind.FORWARD: 1.0, Kind.BACKWARD: 2.0, Kind.BACKWARD_INPUT: 1.25, Kind.BACKWARD_WEIGHT: 0.75}
    timed = simulate(
        make_schedule(name, placement, 9), lambda stage, action: seconds[action.kind] * (1 + stage / 10), transfer=0.25
    )
    assert {round(item.end - item.start, 9) for item in timed if item.action.kind is Kind.FORWARD} == {1, 1.1, 1.2, 1.3}
    ends: dict[tuple[bool, int, int], tuple[int, float]] = {}
    for item in timed:
        if item.action.kind is not Kind.BACKWARD_WEIGHT:
            at = placement.virtual_stage(item.stage, item.action.chunk)
            ends[item.action.kind is Kind.FORWARD, at, item.action.micro_batch] = (item.stage, item.end)
    for item in timed:
        is_forward, at = item.action.kind is Kind.FORWARD, placement.virtual_stage(item.stage, item.action.chunk)
        cause = ends.get((is_forward, at - 1 if is_forward else at + 1, item.action.micro_batch))
        if cause and item.action.kind is not Kind.BACKWARD_WEIGHT:
            assert item.start >= cause[1] + (0.25 if cause[0] != item.stage else 0.0)
    for stage in range(4):
        own = sorted((item.start, item.end) for item in timed if item.stage == stage)
        assert all(end <= start for (_, end), (start, _) in pairwise(own))


def test_the_turn_of_the_v_is_handed_over_without_a_message() -> None:
    schedule = make_schedule("zb-v", make_placement("zb-v", 3, 2), 4)
    turn = [action for action in schedule.stages[2] if not action.kind.computes]
    assert {(action.kind, action.chunk) for action in turn} == {
        *((Kind.RECV_ACTIVATION, 0), (Kind.SEND_GRADIENT, 0)),
        *((Kind.SEND_ACTIVATION, 1), (Kind.RECV_GRADIENT, 1)),
    }
    alone = make_schedule("zb-v", make_placement("zb-v", 1, 2), 4)
    assert all(action.kind.computes for action in alone.stages[0])


def test_megatrons_interleaved_order() -> None:
    """Figure 4 of Narayanan et al. 2021: 4 devices, 2 chunks, 8 micro-batches; the first device's start."""
    actions = make_schedule("interleaved", make_placement("interleaved", 4, 2), 8).stages[0]
    order = [(a.kind is Kind.FORWARD, a.micro_batch + 1, a.chunk) for a in actions if a.kind.computes]
    warm_up = [(True, index, chunk) for group in ((1, 2, 3, 4),) for chunk in (0, 1) for index in group]
    assert order[:10] == [*warm_up, (True, 5, 0), (True, 6, 0)]
    assert order[10:14] == [(True, 7, 0), (False, 1, 1), (True, 8, 0), (False, 2, 1)]


def test_names_and_counts_that_make_no_schedule_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'zigzag'; known: 1f1b, gpipe, interleaved, zb-h1, zb-v"):
        make_placement("zigzag", 2)
    with pytest.raises(ValueError, match="runs 1 chunk per stage, not 2"):
        make_placement("1f1b", 2, 2)
    with pytest.raises(ValueError, match="a V has 2 chunks per stage, not 3"):
        make_placement("zb-v", 2, 3)
    with pytest.raises(ValueError, match="zb-v needs"):
        make_schedule("zb-v", Placement(2, 2), 4)
    with pytest.raises(ValueError, match="needs micro-batches"):
        make_schedule("1f1b", Placement(2), 0)
    with pytest.raises(ValueError, match="no formula"):
        bubble_formula("zigzag", Placement(2), 2, EqualStages())
