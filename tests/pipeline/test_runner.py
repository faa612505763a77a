"""The runner does what the schedule says, keeps nothing that has been sent, and reads no memory that it gave back."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from tiny import tiny_config
from watched import Seen, watch

from megacode.layout.actions import Kind

SCHEDULES = {
    "gpipe": {"schedule": "gpipe"},
    "1f1b": {},
    "interleaved": {"schedule": "interleaved", "chunks": 2},
    "zb-h1": {"schedule": "zb-h1"},
    "zb-v": {"schedule": "zb-v"},
}
ALL = pytest.mark.parametrize("schedule", SCHEDULES)


@cache
def watched(schedule: str, recompute: str = "none", poison: bool = False) -> list[Seen]:
    """Three steps of three micro-batches on two stages, by rank; without a schedule, in one process."""
    sections: dict[str, Any] = {
        "model": {"layers": 4, "attention_dropout": 0.1},
        "optim": {"lr": 3e-3, "lr_schedule": "constant"},
        "train": {"steps": 3, "global_batch": 3, "recompute": recompute},
        "parallel": {"pp": 2, **SCHEDULES[schedule]} if schedule else {},
    }
    return watch(tiny_config(**sections), poison)


@ALL
def test_everything_begins_at_its_place_in_the_schedule(schedule: str) -> None:
    """Receives too: they are begun there, and waited for just before the pass that needs them."""
    for rank in watched(schedule):
        assert rank.order == rank.planned
        received = [action for action in rank.planned if action.startswith("recv")]
        assert sorted(str(receive) for receive, _ in rank.waits) == sorted(received)
        for receive, user in rank.waits:
            assert (receive.micro_batch, receive.chunk) == (user.micro_batch, user.chunk)
            assert (receive.kind is Kind.RECV_ACTIVATION) == (user.kind is Kind.FORWARD)


@ALL
def test_nothing_is_kept_of_what_was_sent(schedule: str) -> None:
    """The output that backward will start from has no memory any more, and nothing is in flight after a step."""
    ranks = watched(schedule)
    assert sum(rank.sent for rank in ranks) > 0
    assert [(rank.kept, rank.left) for rank in ranks] == [(0, [])] * 2


@ALL
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_memory_that_was_given_back_is_not_read_again(schedule: str, recompute: str) -> None:
    """Filled with nan when it is given back, it changes no bit; and no step makes more of it."""
    clean, poisoned = watched(schedule, recompute), watched(schedule, recompute, poison=True)
    for ours, theirs in zip(clean, poisoned, strict=True):
        assert np.isfinite(ours.losses).all()
        assert (ours.losses, ours.norms, ours.validation) == (theirs.losses, theirs.norms, theirs.validation)
        assert len(set(ours.buffers)) == 1 and ours.buffers[0] > 0


@ALL
def test_validation_equals_one_process(schedule: str) -> None:
    """Before and after steps, forward only, through every chunk."""
    (one,) = watched("")
    for rank in watched(schedule):
        np.testing.assert_allclose(rank.losses, one.losses, rtol=1e-6)
        np.testing.assert_allclose(rank.validation, one.validation, rtol=1e-6)
    assert len(set(one.validation)) == 3 and one.validation != one.losses


@ALL
def test_both_ends_hold_the_same_embedding_after_every_step(schedule: str) -> None:
    first, last = watched(schedule)
    if schedule == "zb-v":
        assert not any(last.tied) and (first.tied_group, last.tied_group) == (1, 1)
        assert all(list(step) == ["embedding.tokens.weight"] for step in first.tied), "one matrix, no copy of it"
        return
    seen = []
    for owner, copy in zip(first.tied, last.tied, strict=True):
        ours, theirs = owner["embedding.tokens.weight"], copy["head.weight"]
        np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))
        seen.append(ours.tobytes())
    assert len(set(seen)) == 3, "every step changes it"
