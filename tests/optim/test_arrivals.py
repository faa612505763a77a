"""New weights travel while the first of them are used already: nothing reads one before it is there."""

from __future__ import annotations

import math
from typing import Any

import late_weights
import pytest
from late_weights import Late
from tiny import tiny_config

from megacode.prove.ranks import run_ranks


def train(poisons: bool, hasty: str | None = None, tied: bool = True, **layout: Any) -> list[Late]:
    """Three steps with many buckets, by rank."""
    config = tiny_config(
        model={"layers": 4, "tied": tied}, parallel=layout, train={"steps": 3}, optim={"bucket_megabytes": 0.01}
    )
    return run_ranks(config.parallel.world_size, late_weights.train, config, poisons, hasty)


LAYOUTS = [
    {"dp": 2},
    {"dp": 2, "tp": 2},
    {"dp": 2, "pp": 2},
    {"dp": 2, "pp": 2, "schedule": "interleaved", "chunks": 2},
    {"dp": 2, "pp": 2, "schedule": "zb-v"},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_no_part_reads_a_weight_that_is_not_there(layout: dict[str, Any]) -> None:
    late, usual = train(True, **layout), train(False, **layout)
    for ours, theirs in zip(late, usual, strict=True):
        assert (ours.losses, ours.norms) == (theirs.losses, theirs.norms), "NaN differs from itself"
        assert ours.buckets > 4 and ours.outstanding[0] == (0, 0)
        for before, after in ours.outstanding[1:]:
            assert before >= ours.buckets - 2, "the passes begin when at most the shared embedding is there"
            assert after == 0, "every part has waited for its own"


@pytest.mark.parametrize("hasty", ["Embedding", "Block", "LayerNorm"])
def test_a_part_that_does_not_wait_shows(hasty: str) -> None:
    (first, _) = train(True, hasty, tied=False, dp=2)
    assert math.isfinite(first.losses[0]) and math.isnan(first.losses[1])


def test_a_tied_head_that_does_not_wait_for_its_copy_shows() -> None:
    for hasty, shows in ((None, False), ("LayerNorm", True)):
        last = train(True, hasty, dp=2, pp=2)[-1]
        assert math.isnan(last.losses[1]) is shows
