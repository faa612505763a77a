"""Faults planted in sound schedules: the prover finds each and names its stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from megacode.layout.proofs import ScheduleError, prove
from megacode.layout.schedules import Action, Kind, Schedule, forward_only, make_placement, make_schedule
from megacode.layout.stages import Placement

CASES = (("1f1b", 1), ("gpipe", 1), ("interleaved", 2), ("zb-h1", 1), ("zb-v", 2))


def _with_stage(schedule: Schedule, stage: int, actions: list[Action]) -> Schedule:
    stages = list(schedule.stages)
    stages[stage] = tuple(actions)
    return replace(schedule, stages=tuple(stages))


@pytest.mark.parametrize(("name", "chunks"), CASES)
@pytest.mark.parametrize("fault", ["left out", "done twice", "of another micro-batch", "of another chunk"])
def test_any_action_left_out_done_twice_or_renamed_is_found(name: str, chunks: int, fault: str) -> None:
    for stages in range(1, 4):
        for count in (1, 2, 4):
            schedule = make_schedule(name, make_placement(name, stages, chunks), count)
            for stage, actions in enumerate(schedule.stages):
                for at, action in enumerate(actions):
                    middle = {
                        "left out": [],
                        "done twice": [action, action],
                        "of another micro-batch": [replace(action, micro_batch=count + 5)],
                        "of another chunk": [replace(action, chunk=(action.chunk + 1) % 3)],
                    }[fault]
                    broken = _with_stage(schedule, stage, [*actions[:at], *middle, *actions[at + 1 :]])
                    with pytest.raises(ScheduleError, match=r"stage \d"):
                        prove(broken)


@pytest.mark.parametrize(("name", "chunks"), CASES)
def test_messages_in_another_order_are_found(name: str, chunks: int) -> None:
    """Two sends to the same stage, exchanged: each still follows its pass, and the receiver would take one for the
    other.
    """
    schedule = make_schedule(name, make_placement(name, 3, chunks), 6)
    actions = list(schedule.stages[0])
    sends = [at for at, action in enumerate(actions) if action.kind is Kind.SEND_ACTIVATION and action.peer == 1]
    first, second = sends[0], sends[1]
    actions[second : second + 1] = [actions[second], actions[first]]
    del actions[first]
    with pytest.raises(ScheduleError, match="stage 1: messages from stage 0: the order differs from message 0 on"):
        prove(_with_stage(schedule, 0, actions))


Fault = Callable[[list[Action]], None]


def _move_receive_behind_its_forward(actions: list[Action]) -> None:
    at = actions.index(Action(Kind.RECV_ACTIVATION, 2, peer=0))
    forward = actions.index(Action(Kind.FORWARD, 2))
    actions.insert(forward, actions.pop(at))


def _renumber_the_last_pass(actions: list[Action]) -> None:
    actions[actions.index(Action(Kind.BACKWARD, 5))] = Action(Kind.BACKWARD, 77)


def _send_before_computing(actions: list[Action]) -> None:
    at = actions.index(Action(Kind.FORWARD, 0))
    actions.insert(at, actions.pop(actions.index(Action(Kind.SEND_ACTIVATION, 0, peer=2))))


def _drop_a_forward(actions: list[Action]) -> None:
    actions.remove(Action(Kind.FORWARD, 3))


def _backward_twice(actions: list[Action]) -> None:
    actions.append(Action(Kind.BACKWARD, 0))


def _send_to_a_stranger(actions: list[Action]) -> None:
    at = actions.index(Action(Kind.SEND_ACTIVATION, 0, peer=2))
    actions[at] = Action(Kind.SEND_ACTIVATION, 0, peer=0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_move_receive_behind_its_forward, r"stage 1: forward 2 comes before recv_activation 2 \(stage 0\)"),
        (_renumber_the_last_pass, r"stage 1: backward 77 comes before recv_gradient 77"),
        (_send_before_computing, r"stage 1: send_activation 0 \(stage 2\) comes before forward 0"),
        (_drop_a_forward, r"stage 1: send_activation 3 \(stage 2\) comes before forward 3"),
        (_backward_twice, r"stage 1: backward 0 happens twice"),
        (_send_to_a_stranger, r"stage 1: send_activation 0 \(stage 0\): no neighbour of that chunk is there"),
    ],
)
def test_planted_faults_are_named_with_their_stage(fault: Fault, message: str) -> None:
    schedule = make_schedule("1f1b", Placement(3), 6)
    actions = list(schedule.stages[1])
    fault(actions)
    with pytest.raises(ScheduleError, match=message):
        prove(_with_stage(schedule, 1, actions))


def test_a_weight_pass_before_its_input_pass_is_found() -> None:
    schedule = make_schedule("zb-v", make_placement("zb-v", 2, 2), 4)
    actions = list(schedule.stages[1])
    weight = Action(Kind.BACKWARD_WEIGHT, 2, 1)
    actions.remove(weight)
    actions.insert(actions.index(Action(Kind.BACKWARD_INPUT, 2, 1)), weight)
    with pytest.raises(
        ScheduleError, match="stage 1: backward_weight 2 of chunk 1 comes before backward_input 2 of ch"
    ):
        prove(_with_stage(schedule, 1, actions))


def test_a_backward_pass_both_whole_and_in_parts_is_found() -> None:
    schedule = make_schedule("zb-h1", Placement(1), 2)
    actions = [*schedule.stages[0], Action(Kind.BACKWARD, 1)]
    with pytest.raises(ScheduleError, match=r"stage 0: backward whole and in parts: micro-batches \[1\]"):
        prove(_with_stage(schedule, 0, actions))


def test_the_turn_of_the_v_must_wait_for_its_own_stage() -> None:
    schedule = make_schedule("zb-v", make_placement("zb-v", 1, 2), 2)
    actions = list(schedule.stages[0])
    actions.remove(Action(Kind.FORWARD, 0))
    actions.append(Action(Kind.FORWARD, 0))
    with pytest.raises(ScheduleError, match="stage 0: forward 0 of chunk 1 comes before forward 0"):
        prove(_with_stage(schedule, 0, actions))


def test_a_deadlock_is_named_with_every_stage_in_it() -> None:
    """Two stages that both send first: the naive order of 1F1B's steady state, which blocking sends cannot run."""
    schedule = make_schedule("1f1b", Placement(2), 4)
    actions = list(schedule.stages[1])
    receive = Action(Kind.RECV_ACTIVATION, 1, peer=0)
    actions.remove(receive)
    actions.insert(actions.index(Action(Kind.SEND_GRADIENT, 0, peer=0)) + 1, receive)
    with pytest.raises(ScheduleError, match=r"deadlock: stage 0 at send_activation 1 .*stage 1 at send_gradient 0"):
        prove(_with_stage(schedule, 1, actions))


def test_a_single_stage_that_passes_another_micro_batch_is_found() -> None:
    actions = tuple(Action(kind, index) for index in (0, 9) for kind in (Kind.FORWARD, Kind.BACKWARD))
    with pytest.raises(ScheduleError, match=r"stage 0: forward: no pass for micro-batches \[1\]"):
        prove(Schedule("1f1b", 2, Placement(1), (actions,)))


def test_a_training_schedule_without_backward_passes_is_found() -> None:
    with pytest.raises(ScheduleError, match="stage 0: backward: no pass"):
        prove(replace(forward_only(Placement(2), 3), name="1f1b"))
