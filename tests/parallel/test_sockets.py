"""Collectives by sockets are those of torch.distributed; a rank that is lost is named, in time."""

from __future__ import annotations

import lost
import meshes
import numpy as np
import pytest
import torch

from megacode.prove.ranks import run_ranks


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize(("count", "dtype"), [(7, torch.float32), (40_000, torch.float32), (129, torch.bfloat16)])
def test_collectives_agree_with_torch(world_size: int, count: int, dtype: torch.dtype) -> None:
    results = run_ranks(world_size, meshes.compare, count, dtype)
    tolerance = 2e-2 if dtype is torch.bfloat16 else 1e-5
    for ours, theirs in results:
        for name, values in theirs.items():
            np.testing.assert_allclose(ours[name], values, rtol=tolerance, atol=tolerance, err_msg=name)
    assert all(ours["sum"] == results[0][0]["sum"] for ours, _ in results), "a sum is the same bits on every rank"


def test_a_bf16_sum_is_rounded_once() -> None:
    (ours, _), *_ = run_ranks(4, meshes.compare, 1000, torch.bfloat16)
    exact = sum(meshes.own_values(rank, 1000, torch.bfloat16).double() for rank in range(4))
    assert ours["sum"] == exact.to(torch.bfloat16).float().tolist()


@pytest.mark.parametrize(("silent", "told"), [(False, "closed its connection"), (True, "was silent for 2 s")])
def test_a_lost_rank_is_named(silent: bool, told: str) -> None:
    heard = run_ranks(3, meshes.lose_rank_1, silent)
    for rank in (0, 2):
        assert heard[rank].startswith("rank 1 on ") and told in heard[rank] and f"rank {rank} on" in heard[rank]
        assert int(heard[rank].split("[")[1].split(" ")[0]) <= 3


def test_strangers_are_turned_away() -> None:
    assert run_ranks(2, meshes.knock_first) == [3.0, 3.0]


def test_a_lost_pipeline_stage_is_named() -> None:
    assert run_ranks(2, lost.lose_the_last_stage)[0].startswith("rank 1 (stage 1) is lost to rank 0")
