"""Laws of the schedules for 1 to 8 stages and 1 to 32 micro-batches, and planted faults that the prover must find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import pytest

from megacode.layout.proofs import ScheduleError, peak_live_micro_batches, prove
from megacode.layout.schedules import Action, Kind, Schedule, forward_only, make_schedule
from megacode.layout.simulate import bubble_fraction, simulate

NAMES = ("1f1b", "gpipe")
STAGES = range(1, 9)
MICRO_BATCHES = range(1, 33)
Node = tuple[object, ...]


def _node(action: Action, stage: int) -> Node:
    """The node of an action; a blocking send and its receive are one node, for they happen together."""
    if action.peer is None:
        return (stage, action)
    sends = action.kind in (Kind.SEND_ACTIVATION, Kind.SEND_GRADIENT)
    what = "activation" if action.kind in (Kind.SEND_ACTIVATION, Kind.RECV_ACTIVATION) else "gradient"
    ends = (stage, action.peer) if sends else (action.peer, stage)
    return (what, action.micro_batch, ends)


def _runs_to_its_end_with_blocking_sends(schedule: Schedule) -> bool:
    """Deadlock as a cycle of the graph `each action after the one before it`, independently of the prover's play."""
    graph = TopologicalSorter[Node]()
    for stage, actions in enumerate(schedule.stages):
        nodes = [_node(action, stage) for action in actions]
        for before, after in pairwise(nodes):
            graph.add(after, before)
    try:
        graph.prepare()
    except CycleError:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stages", STAGES)
def test_every_micro_batch_passes_every_stage_once_each_way(name: str, stages: int) -> None:
    for count in MICRO_BATCHES:
        for actions in make_schedule(name, stages, count).stages:
            for kind in (Kind.FORWARD, Kind.BACKWARD):
                passes = [action.micro_batch for action in actions if action.kind is kind]
                assert passes == list(range(count)), (count, kind)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stages", STAGES)
def test_no_deadlock_and_the_prover_agrees(name: str, stages: int) -> None:
    for count in MICRO_BATCHES:
        schedule = make_schedule(name, stages, count)
        assert _runs_to_its_end_with_blocking_sends(schedule), count
        prove(schedule)


@pytest.mark.parametrize("stages", STAGES)
def test_validation_runs_forwards_only(stages: int) -> None:
    for count in MICRO_BATCHES:
        schedule = forward_only(stages, count)
        prove(schedule)
        assert _runs_to_its_end_with_blocking_sends(schedule)
        kinds = {action.kind for actions in schedule.stages for action in actions}
        assert not kinds & {Kind.BACKWARD, Kind.SEND_GRADIENT, Kind.RECV_GRADIENT}


@pytest.mark.parametrize("stages", STAGES)
def test_live_micro_batches(stages: int) -> None:
    for count in MICRO_BATCHES:
        one, all_at_once = make_schedule("1f1b", stages, count), make_schedule("gpipe", stages, count)
        for stage in range(stages):
            assert peak_live_micro_batches(one, stage) == min(count, stages - stage)
            assert peak_live_micro_batches(all_at_once, stage) == count


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("backward", [1.0, 2.0, 3.0])
def test_the_bubble_is_the_formulas(name: str, stages: int, backward: float) -> None:
    for count in MICRO_BATCHES:
        timed = simulate(make_schedule(name, stages, count), 1.0, backward)
        assert bubble_fraction(timed, stages) == pytest.approx((stages - 1) / (count + stages - 1), abs=1e-12)


def test_simulated_passes_respect_their_causes() -> None:
    timed = simulate(make_schedule("1f1b", 4, 9), forward=1.0, backward=2.0, transfer=0.25)
    when = {(item.stage, item.action.kind, item.action.micro_batch): item for item in timed}
    for (stage, kind, index), item in when.items():
        cause = (stage - 1, Kind.FORWARD, index) if kind is Kind.FORWARD else (stage + 1, Kind.BACKWARD, index)
        if cause in when:
            assert item.start >= when[cause].end + 0.25
    for stage in range(4):
        own = sorted((item.start, item.end) for item in timed if item.stage == stage)
        assert all(end <= start for (_, end), (start, _) in pairwise(own))


def test_counts_and_names_that_make_no_schedule_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'zigzag'; known: 1f1b, gpipe"):
        make_schedule("zigzag", 2, 2)
    with pytest.raises(ValueError, match="needs stages and micro-batches"):
        make_schedule("1f1b", 2, 0)


def _with_stage(schedule: Schedule, stage: int, actions: list[Action]) -> Schedule:
    stages = list(schedule.stages)
    stages[stage] = tuple(actions)
    return replace(schedule, stages=tuple(stages))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", ["left out", "done twice"])
def test_any_action_left_out_or_done_twice_is_found(name: str, fault: str) -> None:
    for stages in range(1, 5):
        for count in range(1, 5):
            schedule = make_schedule(name, stages, count)
            for stage, actions in enumerate(schedule.stages):
                for at in range(len(actions)):
                    middle = [] if fault == "left out" else [actions[at], actions[at]]
                    broken = _with_stage(schedule, stage, [*actions[:at], *middle, *actions[at + 1 :]])
                    with pytest.raises(ScheduleError, match=r"stage \d"):
                        prove(broken)


Fault = Callable[[list[Action]], None]


def _move_receive_behind_its_forward(actions: list[Action]) -> None:
    at = actions.index(Action(Kind.RECV_ACTIVATION, 2, 0))
    forward = actions.index(Action(Kind.FORWARD, 2))
    actions.insert(forward, actions.pop(at))


def _renumber_the_last_pass(actions: list[Action]) -> None:
    actions[actions.index(Action(Kind.BACKWARD, 5))] = Action(Kind.BACKWARD, 77)


def _send_before_computing(actions: list[Action]) -> None:
    at = actions.index(Action(Kind.FORWARD, 0))
    actions.insert(at, actions.pop(actions.index(Action(Kind.SEND_ACTIVATION, 0, 2))))


def _drop_a_forward(actions: list[Action]) -> None:
    actions.remove(Action(Kind.FORWARD, 3))


def _backward_twice(actions: list[Action]) -> None:
    actions.append(Action(Kind.BACKWARD, 0))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_move_receive_behind_its_forward, r"stage 1: forward 2 comes before recv_activation 2 \(stage 0\)"),
        (_renumber_the_last_pass, r"stage 1: backward 77 comes before recv_gradient 77"),
        (_send_before_computing, r"stage 1: send_activation 0 \(stage 2\) comes before forward 0"),
        (_drop_a_forward, r"stage 1: send_activation 3 \(stage 2\) comes before forward 3"),
        (_backward_twice, r"stage 1: backward 0 happens twice"),
    ],
)
def test_planted_faults_are_named_with_their_stage(fault: Fault, message: str) -> None:
    schedule = make_schedule("1f1b", 3, 6)
    actions = list(schedule.stages[1])
    fault(actions)
    with pytest.raises(ScheduleError, match=message):
        prove(_with_stage(schedule, 1, actions))


def test_a_deadlock_is_named_with_every_stage_in_it() -> None:
    """Two stages that both send first: the naive order of 1F1B's steady state, which blocking sends cannot run."""
    schedule = make_schedule("1f1b", 2, 4)
    actions = list(schedule.stages[1])
    send = actions.index(Action(Kind.SEND_GRADIENT, 0, 0))
    receive = actions.index(Action(Kind.RECV_ACTIVATION, 1, 0))
    actions[send], actions[receive] = actions[receive], actions[send]
    broken = _with_stage(schedule, 1, actions)
    assert not _runs_to_its_end_with_blocking_sends(broken)
    with pytest.raises(ScheduleError, match=r"deadlock: stage 0 at send_activation 1 .*stage 1 at send_gradient 0"):
        prove(broken)


def test_a_single_stage_that_passes_another_micro_batch_is_found() -> None:
    actions = tuple(Action(kind, index) for index in (0, 9) for kind in (Kind.FORWARD, Kind.BACKWARD))
    with pytest.raises(ScheduleError, match=r"stage 0: forward: no pass for micro-batches \[1\]"):
        prove(Schedule("1f1b", 2, (actions,)))


def test_a_training_schedule_without_backward_passes_is_found() -> None:
    with pytest.raises(ScheduleError, match="stage 0: backward: no pass"):
        prove(replace(forward_only(2, 3), name="1f1b"))
