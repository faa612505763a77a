"""The harness of this folder can fail: bf16 rounds as torch does, and stray accesses are caught."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError


@triton.jit
def _copy(source, target, count, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    mask = offsets < count
    values = tl.load(source + offsets, mask=mask | (not MASKED), other=0.0)
    tl.store(target + offsets, values.to(tl.float32).to(target.dtype.element_ty), mask=mask)


@triton.jit
def _add(source, target, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    values = tl.load(source + offsets)
    tl.store(target + offsets, values + values)


def test_bf16_casts_round_to_nearest_even() -> None:
    source = torch.randn(1024) * 100
    target = torch.zeros(1024, dtype=torch.bfloat16)
    _copy[(1,)](source, target, 1024, MASKED=True, BLOCK=1024)
    assert torch.equal(target, source.to(torch.bfloat16))


def test_bf16_arithmetic_is_refused() -> None:
    source = torch.ones(16, dtype=torch.bfloat16)
    with pytest.raises(InterpreterError, match="widen to fp32"):
        _add[(1,)](source, torch.zeros_like(source), BLOCK=16)


def test_reads_outside_a_view_are_caught() -> None:
    storage = torch.ones(32)  # the view ends at 12, the storage does not
    with pytest.raises(InterpreterError, match="out-of-bounds load in 4 lanes"):
        _copy[(1,)](storage[:12], torch.zeros(16), 12, MASKED=False, BLOCK=16)
    _copy[(1,)](storage[:12], torch.zeros(16), 12, MASKED=True, BLOCK=16)


def test_empty_tensors_are_poisoned() -> None:
    assert torch.empty(3).isnan().all()
    assert torch.empty_like(torch.ones(3)).isnan().all()
