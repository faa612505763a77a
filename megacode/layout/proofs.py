"""Laws that a schedule must keep, checked on the very actions that will run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import MappingProxyType

from megacode.layout.actions import FORWARD_ONLY, Action, Kind, Schedule

_ANSWER = MappingProxyType({Kind.SEND_ACTIVATION: Kind.RECV_ACTIVATION, Kind.SEND_GRADIENT: Kind.RECV_GRADIENT})

_Place = tuple[int, int] | None


class ScheduleError(ValueError):
    """A schedule that breaks a law; the message names stage and action."""


def prove(schedule: Schedule) -> None:
    """Check completeness, causality, first-in first-out messages and freedom from deadlock with blocking sends.

    Complete: every micro-batch passes forward once through every chunk, and backward once, whole or first the input and
    later the weight part. Raises ScheduleError with the first law broken.
    """
    for stage in range(schedule.num_stages):
        _prove_stage(schedule, stage)
    _prove_first_in_first_out(schedule)
    _prove_no_deadlock(schedule)


def peak_live_micro_batches(schedule: Schedule, stage: int) -> int:
    """The most activations that `stage` holds at once, each of one micro-batch in one chunk.

    They are held from the forward pass to the end of the backward pass, with a split one to the end of its weight part.
    """
    return _peak(schedule, stage, Kind.FORWARD, (Kind.BACKWARD, Kind.BACKWARD_WEIGHT))


def peak_waiting_weight_passes(schedule: Schedule, stage: int) -> int:
    """The most weight passes of `stage` that wait at once; each also holds gradients of the chunk's outputs."""
    return _peak(schedule, stage, Kind.BACKWARD_INPUT, (Kind.BACKWARD_WEIGHT,))


def _peak(schedule: Schedule, stage: int, begin: Kind, end: tuple[Kind, ...]) -> int:
    live = peak = 0
    for action in schedule.stages[stage]:
        live += (action.kind is begin) - (action.kind in end)
        peak = max(peak, live)
    return peak


def _prove_stage(schedule: Schedule, stage: int) -> None:
    seen = set[Action]()
    place = schedule.placement
    neighbours = [(place.previous(stage, chunk), place.next(stage, chunk)) for chunk in range(place.num_chunks)]
    for action in schedule.stages[stage]:
        if not 0 <= action.chunk < place.num_chunks:
            raise ScheduleError(f"stage {stage}: {action}: there is no such chunk")
        for choice in _needs(stage, action, *neighbours[action.chunk]):
            if seen.isdisjoint(choice):
                raise ScheduleError(f"stage {stage}: {action} comes before {choice[0]}")
        if action in seen:
            raise ScheduleError(f"stage {stage}: {action} happens twice")
        seen.add(action)
    _prove_complete(schedule, stage, seen)


def _prove_complete(schedule: Schedule, stage: int, seen: set[Action]) -> None:
    num_chunks, trains = schedule.placement.num_chunks, schedule.name != FORWARD_ONLY
    by_chunk: list[dict[Kind, set[int]]] = [{kind: set() for kind in Kind} for _ in range(num_chunks)]
    for action in seen:
        by_chunk[action.chunk][action.kind].add(action.micro_batch)
    for chunk, passed in enumerate(by_chunk):
        where = f"stage {stage}" + (f", chunk {chunk}" if num_chunks > 1 else "")
        if both := passed[Kind.BACKWARD] & passed[Kind.BACKWARD_INPUT]:
            raise ScheduleError(f"{where}: backward whole and in parts: micro-batches {sorted(both)}")
        _prove_all(schedule, where, "forward", passed[Kind.FORWARD])
        if trains:
            _prove_all(schedule, where, "backward", passed[Kind.BACKWARD] | passed[Kind.BACKWARD_INPUT])
            _prove_all(schedule, where, "weights", passed[Kind.BACKWARD] | passed[Kind.BACKWARD_WEIGHT])


def _prove_all(schedule: Schedule, where: str, what: str, passed: set[int]) -> None:
    every = set(range(schedule.num_micro_batches))
    if missing := sorted(every - passed):
        raise ScheduleError(f"{where}: {what}: no pass for micro-batches {missing}")
    if unknown := sorted(passed - every):
        raise ScheduleError(f"{where}: {what}: unknown micro-batches {unknown}")


def _needs(stage: int, action: Action, before: _Place, after: _Place) -> Iterator[tuple[Action, ...]]:
    """What must have happened on `stage` before `action`, whose chunk stands between two others; of each tuple one."""
    kind, index, chunk = action.kind, action.micro_batch, action.chunk
    forward = Action(Kind.FORWARD, index, chunk)
    source = before if kind in (Kind.FORWARD, Kind.SEND_GRADIENT, Kind.RECV_ACTIVATION) else after
    if not kind.computes and (source is None or source[0] == stage or action.peer != source[0]):
        raise ScheduleError(f"stage {stage}: {action}: no neighbour of that chunk is there")
    if kind is Kind.FORWARD and before is not None:
        local = before[0] == stage
        yield (Action(kind, index, before[1]) if local else Action(Kind.RECV_ACTIVATION, index, chunk, before[0]),)
    elif kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT):
        if after is not None and after[0] == stage:
            yield _backwards(index, after[1])
        elif after is not None:
            yield (Action(Kind.RECV_GRADIENT, index, chunk, after[0]),)
        yield (forward,)
    elif kind is Kind.BACKWARD_WEIGHT:
        yield (Action(Kind.BACKWARD_INPUT, index, chunk),)
    elif kind is Kind.SEND_ACTIVATION:
        yield (forward,)
    elif kind is Kind.SEND_GRADIENT:
        yield _backwards(index, chunk)
    elif kind is Kind.RECV_GRADIENT:
        yield (Action(Kind.SEND_ACTIVATION, index, chunk, action.peer),)


def _backwards(index: int, chunk: int) -> tuple[Action, ...]:
    return (Action(Kind.BACKWARD, index, chunk), Action(Kind.BACKWARD_INPUT, index, chunk))


def _prove_first_in_first_out(schedule: Schedule) -> None:
    """What one stage sends to another, in that order, is what the other receives from it."""
    sent: dict[tuple[int, int], list[Action]] = {}
    received: dict[tuple[int, int], list[Action]] = {}
    for stage, actions in enumerate(schedule.stages):
        for action in actions:
            if action.peer is not None and action.kind in _ANSWER:
                sent.setdefault((stage, action.peer), []).append(_answer(schedule, stage, action))
            elif action.peer is not None:
                received.setdefault((action.peer, stage), []).append(action)
    for source, target in sorted(sent.keys() | received.keys()):
        out, into = sent.get((source, target), []), received.get((source, target), [])
        if out != into:
            at = next((i for i, pair in enumerate(zip(out, into, strict=False)) if pair[0] != pair[1]), None)
            lost = sorted(str(action) for action in (Counter(out) - Counter(into)) + (Counter(into) - Counter(out)))
            what = f"unmatched {lost[0]}" if lost else f"the order differs from message {at} on"
            raise ScheduleError(f"stage {target}: messages from stage {source}: {what}")


def _answer(schedule: Schedule, stage: int, send: Action) -> Action:
    """The receive that `send` meets on its peer."""
    place = schedule.placement
    forward = send.kind is Kind.SEND_ACTIVATION
    other = place.next(stage, send.chunk) if forward else place.previous(stage, send.chunk)
    assert other is not None, "_needs has checked that the peer is a neighbour"
    return Action(_ANSWER[send.kind], send.micro_batch, other[1], stage)


def _prove_no_deadlock(schedule: Schedule) -> None:
    """Play the links alone with sends that block until the peer stands at the receive."""
    links = [[action for action in actions if action.peer is not None] for actions in schedule.stages]
    position = [0] * schedule.num_stages
    ready = list(range(schedule.num_stages))
    while ready:
        stage = ready.pop()
        while position[stage] < len(links[stage]):
            action = links[stage][position[stage]]
            peer = action.peer
            assert peer is not None, "only links are left"
            if position[peer] >= len(links[peer]) or not _meet(schedule, stage, action, links[peer][position[peer]]):
                break
            position[stage] += 1
            position[peer] += 1
            ready.append(peer)
    stuck = [f"stage {s} at {links[s][at]}" for s, at in enumerate(position) if at < len(links[s])]
    if stuck:
        raise ScheduleError("deadlock: " + ", ".join(stuck))


def _meet(schedule: Schedule, stage: int, action: Action, other: Action) -> bool:
    """Whether `action` of `stage` and `other` of its peer are the two ends of one message."""
    if action.kind in _ANSWER:
        return other == _answer(schedule, stage, action)
    assert action.peer is not None, "only links are compared"
    return other.kind in _ANSWER and other.peer == stage and _answer(schedule, action.peer, other) == action
