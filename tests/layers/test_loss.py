"""Output projection and cross entropy in chunks are torch's, over any cut, and fp32 logits never exist whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from heads import Problem, cut_over_ranks
from torch.utils._python_dispatch import TorchDispatchMode

from megacode.layers import loss
from megacode.parallel.groups import single_rank
from megacode.prove.ranks import run_ranks

# Elements in fp32 and bytes kept at once, so that 37 rows of a vocabulary of 48 are some chunks of some portions.
FEW = {"_WIDE_LOGITS": 5 * 48, "_KEPT_BYTES": 4 * 13 * 48}


def error(found: Any, expected: torch.Tensor) -> float:
    """Largest difference over the largest magnitude."""
    return float(np.abs(np.asarray(found) - expected.numpy()).max() / expected.abs().max())


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("size", [1.0, 100.0])
@pytest.mark.parametrize("rows", [1, 13, 37])
def test_in_chunks_it_is_torchs(
    rows: int, size: float, dtype: torch.dtype, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and both gradients, also where logits are in the hundreds."""
    for name, value in FEW.items():
        monkeypatch.setattr(loss, name, {"cpu": value})
    problem = Problem.made(rows, 8, 48, dtype, size)
    alone, total, grad_x, grad_weight = (tensor.float() for tensor in problem.ours(single_rank().tp))
    if rows == 1:
        assert total == alone == 0 and not grad_x.any() and not grad_weight.any(), "the only row has no weight"
        return
    for found, expected in zip((total, grad_x, grad_weight), problem.expected(), strict=True):
        assert error(found, expected) <= most
    assert error(alone, total) <= 1e-6


@pytest.mark.parametrize("ranks", [2, 3])
def test_cut_over_ranks_it_is_torchs(ranks: int) -> None:
    problem = Problem.made(37, 8, 48)
    told = run_ranks(ranks, cut_over_ranks, problem, FEW)
    expected, grad_x, grad_weight = problem.expected()
    for alone, total, _, _ in told:
        assert error(total, expected) <= 1e-6 and error(alone, expected) <= 1e-6
    assert error(sum(rank[2] for rank in told), grad_x) <= 2e-6, "each rank has its part of a sum"
    assert error(np.concatenate([rank[3] for rank in told]), grad_weight) <= 2e-6


class Largest(TorchDispatchMode):
    """Notes the most elements of any tensor that is made in the block, by dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements[tensor.dtype] = max(self.elements.get(tensor.dtype, 0), tensor.numel())
        return out


def test_fp32_logits_never_exist_whole() -> None:
    """StarCoder's vocabulary, 512 tokens: in fp32 at most 2^20 elements, of 25 million, are there at once."""
    problem = Problem.made(512, 8, 49152, torch.bfloat16)
    with Largest() as largest:
        problem.ours(single_rank().tp)
    assert 512 * 49152 == 25165824 == largest.elements[torch.bfloat16], "the logits, in the weights' dtype"
    assert 2**19 < largest.elements[torch.float32] <= 2**20


@pytest.mark.parametrize(("rows", "width", "most"), [(1, 10, 1), (7, 10, 30), (8, 3, 1000), (512, 49152, 1 << 20)])
def test_parts_cover_every_row_once_within_the_limit(rows: int, width: int, most: int) -> None:
    parts = list(loss._parts(rows, width, most))
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(rows))
    assert all((part.stop - part.start) * width <= max(most, width) for part in parts)
