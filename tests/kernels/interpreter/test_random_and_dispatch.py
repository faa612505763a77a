"""In a Triton kernel the random bits are those of torch, and dispatch hands out interpreted kernels here."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from megacode.kernels import counter_random, dispatch, flash_attention, layer_norm
from megacode.kernels.counter_random_kernels import counter, counter_step, mixed_bits


@triton.jit
def _bits(index, output, seed: tl.int64, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(output + offsets, mixed_bits(counter(seed, tl.load(index + offsets))).to(tl.int64))


@triton.jit
def _stepped_bits(index, output, seed: tl.int64, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    start = counter(seed, tl.load(index))
    tl.store(output + offsets, mixed_bits(start + counter_step(offsets)).to(tl.int64))


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_bits_in_a_kernel_are_those_of_torch(seed: int) -> None:
    index = torch.cat([torch.arange(100), torch.arange(2**32 - 14, 2**32 + 14)])
    output = torch.zeros(128, dtype=torch.int64)
    _bits[(1,)](index, output, counter_random.signed(seed), BLOCK=128)
    assert torch.equal(output, counter_random.random_bits(seed, index))


def test_a_row_of_counters_is_a_start_plus_steps() -> None:
    start = torch.tensor([2**40 + 3])
    output = torch.zeros(64, dtype=torch.int64)
    _stepped_bits[(1,)](start, output, counter_random.signed(2**63 + 9), BLOCK=64)
    assert torch.equal(output, counter_random.random_bits(2**63 + 9, start + torch.arange(64)))


def test_triton_may_run_on_cpu_in_the_interpreter() -> None:
    chosen = dispatch.choose("triton", "cpu")
    assert chosen.layer_norm is layer_norm.layer_norm
    assert chosen.causal_attention.func is flash_attention.causal_attention
    assert set(chosen.name_by_op.values()) == {"triton interpreted", "triton interpreted (flash)"}
