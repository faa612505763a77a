"""Rotary embedding of StarCoder2-3B's queries, and of its keys, which are half of what one linear layer gives."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from megacode.kernels import reference, rotary, torch_elementwise
from megacode.kernels.cases.case import Case, Cost
from megacode.kernels.cases.partial_sums import BF16, FP32

LENGTH, WIDTH, THETA = 16384, 128, 999_999.0


def costs(heads: int) -> Mapping[str, Cost]:
    """Of one launch, forward or backward: bf16 [1, s, n, d] read and written, fp32 [d/2] read by each program.

    3 operations an element, and 40 for each angle's sine and cosine, once per position.
    """
    elements, table = LENGTH * heads * WIDTH, WIDTH // 2 * FP32
    programs = -(-LENGTH // rotary.tile_rows(LENGTH, heads, WIDTH))
    least = 2 * elements * BF16
    flops = 3 * elements + 40 * LENGTH * WIDTH // 2
    return {"rotary_kernel": Cost(least + programs * table, least + table, flops)}


def case(name: str, heads: int) -> Case:
    """Turn bf16 [1, s, n, d]; on Triton over the input's memory."""

    def make_inputs(device: torch.device) -> tuple[Tensor, ...]:
        shape = (1, LENGTH, heads, WIDTH)
        return (torch.randn(shape, dtype=torch.bfloat16, device=device, requires_grad=True),)

    return Case(
        op="rotary",
        shape=f"{name}, s {LENGTH:,} x {heads} heads of {WIDTH}, bf16",
        make_inputs=make_inputs,
        triton=lambda x: rotary.rotary(x, THETA),
        reference=lambda x: reference.rotary(x, THETA),
        costs=costs(heads),
        tolerance=1e-2,
        baselines={"torch": lambda x: torch_elementwise.rotary(x, THETA)},
    )


def cases() -> tuple[Case, ...]:
    """StarCoder2-3B; StarCoder has no rotary embedding."""
    return case("StarCoder2-3B queries", 24), case("StarCoder2-3B keys", 2)
