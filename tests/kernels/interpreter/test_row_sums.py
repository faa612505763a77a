"""Partial sums are all added, in the dtypes asked for; how many there are follows from the shape."""

from __future__ import annotations

import pytest
import torch

from megacode.kernels.row_sums import count_runs, sum_partials
from megacode.kernels.rows import plan_rows


@pytest.mark.parametrize("programs", [1, 64, 65, 150])
def test_adds_every_partial_row(programs: int) -> None:
    partials = torch.randn(2, programs, 70, generator=torch.Generator().manual_seed(0))
    sums = sum_partials(partials, torch.float32, torch.float32)
    torch.testing.assert_close(torch.stack(sums), partials.sum(1), atol=1e-5, rtol=1e-5)


def test_gives_each_sum_its_dtype() -> None:
    partials = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    sums = sum_partials(partials, torch.bfloat16, torch.float32)
    assert [one.dtype for one in sums] == [torch.bfloat16, torch.float32]
    for one, expected in zip(sums, partials.sum(1), strict=True):
        torch.testing.assert_close(one, expected.to(one.dtype))


def test_plans_hold_whole_rows_in_parts_and_bound_the_partial_sums() -> None:
    for rows, hidden in [(1, 1), (5, 511), (300, 512), (2048, 6144), (100_000, 768), (7, 65536)]:
        plan = plan_rows(rows, hidden, 23)
        assert plan.part * (plan.parts - 1) < hidden <= plan.part * plan.parts
        assert plan.programs <= min(rows, 432) and (plan.programs <= 64 or plan.programs <= -(-rows // 23))
        assert 1 <= count_runs(rows, hidden) <= -(-rows // 64)
    assert plan_rows(2048, 6144, 23).parts == 3
