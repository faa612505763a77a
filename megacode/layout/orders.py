"""The order of the computations on one stage, for each schedule."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from megacode.layout.actions import Action, Kind
from megacode.layout.stages import Placement

Order = Iterator[Action]


def gpipe(stage: int, placement: Placement, count: int) -> Order:
    """All forward passes, then all backward passes (Huang et al. 2018)."""
    yield from _passes(Kind.FORWARD, range(count))
    yield from _passes(Kind.BACKWARD, range(count))


def one_forward_one_backward(stage: int, placement: Placement, count: int) -> Order:
    """PipeDream-Flush (Narayanan et al. 2021, section 2.2): a stage holds at most p - stage micro-batches."""
    warm_up = min(placement.num_stages - 1 - stage, count)
    yield from _passes(Kind.FORWARD, range(warm_up))
    for index in range(count - warm_up):
        yield Action(Kind.FORWARD, warm_up + index)
        yield Action(Kind.BACKWARD, index)
    yield from _passes(Kind.BACKWARD, range(count - warm_up, count))


def interleaved(stage: int, placement: Placement, count: int) -> Order:
    """Interleaved 1F1B (Narayanan et al. 2021, section 2.2; Megatron-LM's order), for any number of micro-batches.

    Micro-batches go in groups: a group passes through chunk 0, then through chunk 1, and so on; backward the other way
    round. Groups have p micro-batches where p divides their number, as in Megatron; otherwise some have a few more, so
    that none is too small to fill the pipeline, and the bubble is the same.
    """
    p, v = placement.num_stages, placement.num_chunks
    num_groups = max(1, count // p)
    bounds = [count * group // num_groups for group in range(num_groups + 1)]
    turns = [(index, chunk) for group in pairwise(bounds) for chunk in range(v) for index in range(*group)]
    largest = -(-count // num_groups)
    warm_up = min(2 * (p - 1 - stage) + (v - 1) * largest, len(turns))
    forward = [Action(Kind.FORWARD, index, chunk) for index, chunk in turns]
    backward = [Action(Kind.BACKWARD, index, v - 1 - chunk) for index, chunk in turns]
    yield from forward[:warm_up]
    for ahead, back in zip(forward[warm_up:], backward, strict=False):
        yield from (ahead, back)
    yield from backward[len(turns) - warm_up :]


def zero_bubble_h1(stage: int, placement: Placement, count: int) -> Order:
    """ZB-H1 (Qi et al. 2023, section 2.1): 1F1B whose weight passes come `stage` micro-batches later.

    Every stage then holds up to p micro-batches, as many as the first stage of 1F1B, and weight passes fill the end.
    """
    warm_up = min(placement.num_stages - 1 - stage, count)
    yield from _passes(Kind.FORWARD, range(warm_up))
    for index in range(count):
        if warm_up + index < count:
            yield Action(Kind.FORWARD, warm_up + index)
        yield Action(Kind.BACKWARD_INPUT, index)
        if index >= stage:
            yield Action(Kind.BACKWARD_WEIGHT, index - stage)
    yield from _passes(Kind.BACKWARD_WEIGHT, range(max(0, count - stage), count))


def zero_bubble_v(stage: int, placement: Placement, count: int) -> Order:
    """ZB-V (Qi et al. 2023, section 6), for F = B = W: a stage holds at most 2p chunks of half a stage each.

    Chunk 0 is filled until the first micro-batch is back on its way up, then both chunks take turns until its gradient
    arrives; from there on every stage does three passes of one chunk, three of the other, and never waits. Fewer than
    2p micro-batches are run as 2p with some left out: what remains is in one order on every stage, so it cannot
    deadlock where the whole did not, and holds no more activations.
    """
    p, full = placement.num_stages, max(count, 2 * placement.num_stages)
    made = {(kind, chunk): 0 for kind in _ZERO_BUBBLE for chunk in (0, 1)}

    def take(kind: Kind, chunk: int) -> Action:
        made[kind, chunk] += 1
        return Action(kind, made[kind, chunk] - 1, chunk)

    forward, inputs, weights = _ZERO_BUBBLE
    turns = [(forward, 0)] * (2 * (p - stage) - 1)
    turns += [(forward, 1), (forward, 0)] * stage
    turns += [(forward, 1), (inputs, 1), (weights, 1)] * (p - stage)
    last_of_chunk_0 = full - (2 * p - 1 - stage)
    for turn in range(full - p):
        turns += [(forward, 0)] if turn < last_of_chunk_0 else []
        turns += [(inputs, 0), (weights, 0), (forward, 1), (inputs, 1), (weights, 1)]
    turns += [(inputs, 0), (inputs, 1)] * stage
    turns += [(inputs, 0), (weights, 0)] * (p - stage)
    turns += [(weights, 1), (weights, 0)] * stage
    order = [take(kind, chunk) for kind, chunk in turns]
    return (action for action in order if action.micro_batch < count)


_ZERO_BUBBLE = (Kind.FORWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT)


def _passes(kind: Kind, micro_batches: range) -> Order:
    return (Action(kind, micro_batch) for micro_batch in micro_batches)
