"""In a Triton kernel the random bits are those of torch, and dispatch hands out interpreted kernels here."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from megacode.kernels import counter_random, dispatch, flash_attention, layer_norm
from megacode.kernels.counter_random_kernels import column_keys, keep, random_bits, row_keys


@triton.jit
def _bits(rows, columns, output, seed: tl.int64, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    of_rows = row_keys(seed, tl.load(rows + tl.arange(0, ROWS)))
    of_columns = column_keys(tl.load(columns + tl.arange(0, COLUMNS)))
    places = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(output + places, random_bits(of_rows[:, None], of_columns[None, :]).to(tl.int64))


@triton.jit
def _kept(output, seed: tl.int64, DROP_BELOW: tl.constexpr, COLUMNS: tl.constexpr):
    columns = tl.arange(0, COLUMNS)
    row = row_keys(seed, tl.cast(tl.program_id(0), tl.int64))
    tl.store(output + tl.program_id(0) * COLUMNS + columns, keep(row, column_keys(columns), DROP_BELOW))


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_bits_in_a_kernel_are_those_of_torch(seed: int) -> None:
    rows = torch.cat([torch.arange(20), torch.arange(2**32 - 3, 2**32 + 3), torch.arange(2**40, 2**40 + 6)])
    columns = torch.cat([torch.arange(100), torch.arange(2**31 - 28, 2**31)])
    output = torch.zeros(32, 128, dtype=torch.int64)
    _bits[(1,)](rows, columns.to(torch.int32), output, counter_random.signed(seed), ROWS=32, COLUMNS=128)
    assert torch.equal(output, counter_random.random_bits(seed, rows[:, None], columns))


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_kernel_keeps_what_torch_keeps(probability: float) -> None:
    seed, threshold = 2**63 + 9, counter_random.drop_threshold(probability)
    output = torch.zeros(3, 64, dtype=torch.bool)
    _kept[(3,)](output, counter_random.signed(seed), DROP_BELOW=threshold, COLUMNS=64)
    rows, columns = torch.arange(3)[:, None], torch.arange(64)
    assert torch.equal(output, counter_random.keep_mask(seed, rows, columns, probability))


def test_triton_may_run_on_cpu_in_the_interpreter() -> None:
    chosen = dispatch.choose("triton", "cpu")
    assert chosen.layer_norm is layer_norm.layer_norm
    assert chosen.causal_attention.func is flash_attention.causal_attention
    assert set(chosen.name_by_op.values()) == {"triton interpreted", "triton interpreted (flash)"}
