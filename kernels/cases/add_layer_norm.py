"""Residual add and LayerNorm between two halves of a block: StarCoder's with dropout over tp = 4, StarCoder2-3B's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from megacode.kernels import add_layer_norm, reference, torch_elementwise
from megacode.kernels.cases.case import Case, Cost
from megacode.kernels.cases.partial_sums import BF16, FP32, adding, written_bytes
from megacode.kernels.counter_random import HiddenDropout, fold_seed
from megacode.kernels.rows import plan_rows

EPS = 1e-5


def costs(rows: int, hidden: int, drops: bool) -> Mapping[str, Cost]:
    """Of bf16 [rows, h] and [h]; the statistics are two fp32 numbers a row; the mask is 8 integer operations.

    Forward: 2 to add (3 with dropout) and 7 to normalize. Backward: 13 to differentiate, 2 to add (3 with dropout).
    """
    programs = plan_rows(rows, hidden, add_layer_norm.ROWS_PER_PROGRAM).programs
    elements, vector, statistics = rows * hidden, hidden * BF16, 2 * rows * FP32
    forward = 4 * elements * BF16 + statistics
    backward = (5 if drops else 4) * elements * BF16 + statistics
    partials = written_bytes(3, programs, hidden)
    mask = 9 if drops else 0
    return {
        "add_layer_norm_forward_kernel": Cost(
            forward + programs * 3 * vector, forward + 3 * vector, (9 + mask) * elements
        ),
        "add_layer_norm_backward_kernel": Cost(
            backward + programs * vector + partials, backward + vector, (15 + mask) * elements
        ),
        "sum_partials_kernel": adding(3, programs, hidden),
    }


def case(name: str, length: int, hidden: int, dropout: HiddenDropout | None) -> Case:
    """Add and normalize bf16 [1, s, h]."""

    def make_inputs(device: torch.device) -> tuple[Tensor, ...]:
        wide, vector = (1, length, hidden), (hidden,)
        return tuple(
            torch.randn(shape, dtype=torch.bfloat16, device=device, requires_grad=True)
            for shape in (wide, vector, wide, vector, vector)
        )

    def call(function, branch, branch_bias, residual, weight, bias):
        return function(branch, branch_bias, residual, dropout, weight, bias, EPS)

    drops = dropout is not None
    return Case(
        op="add_layer_norm",
        shape=f"{name}, s {length:,} x h {hidden:,}, bf16, dropout {dropout.probability if dropout else 0}",
        make_inputs=make_inputs,
        triton=lambda *inputs: call(add_layer_norm.add_layer_norm, *inputs),
        reference=lambda *inputs: call(reference.add_layer_norm, *inputs),
        costs=costs(length, hidden, drops),
        tolerance=1e-2,
        baselines={"torch": lambda *inputs: call(torch_elementwise.add_layer_norm, *inputs)},
    )


def cases() -> tuple[Case, ...]:
    """StarCoder and StarCoder2-3B."""
    dropout = HiddenDropout(probability=0.1, seed=fold_seed(1234, 5), first_position=2048, length=8192)
    return case("StarCoder", 2048, 6144, dropout), case("StarCoder2-3B", 16384, 3072, None)
