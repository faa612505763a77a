"""LayerNorm at the rows a rank holds between blocks: StarCoder's over tp = 4, StarCoder2-3B's whole sequence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from megacode.kernels import layer_norm, reference
from megacode.kernels.cases.case import Case, Cost
from megacode.kernels.cases.partial_sums import BF16, FP32, adding, written_bytes
from megacode.kernels.rows import plan_rows

EPS = 1e-5


def costs(rows: int, hidden: int) -> Mapping[str, Cost]:
    """Of x bf16 [rows, h], weight and bias bf16 [h]; the statistics are two fp32 numbers a row.

    Forward adds up, centres, squares and adds up, scales three times: 7 operations an element. Backward: 2 to
    normalize, 1 to weigh, 3 for the sums over rows, 3 for those along the row, 4 for the gradient.
    """
    programs = plan_rows(rows, hidden, layer_norm.ROWS_PER_PROGRAM).programs
    elements, vector, statistics = rows * hidden, hidden * BF16, 2 * rows * FP32
    forward = 2 * elements * BF16 + statistics
    backward = 3 * elements * BF16 + statistics
    partials = written_bytes(2, programs, hidden)
    return {
        "layer_norm_forward_kernel": Cost(forward + programs * 2 * vector, forward + 2 * vector, 7 * elements),
        "layer_norm_backward_kernel": Cost(backward + programs * vector + partials, backward + vector, 13 * elements),
        "sum_partials_kernel": adding(2, programs, hidden),
    }


def case(name: str, rows: int, hidden: int) -> Case:
    """LayerNorm of bf16 [rows, h]."""

    def make_inputs(device: torch.device) -> tuple[Tensor, ...]:
        return tuple(
            torch.randn(shape, dtype=torch.bfloat16, device=device, requires_grad=True)
            for shape in ((rows, hidden), (hidden,), (hidden,))
        )

    return Case(
        op="layer_norm",
        shape=f"{name}, rows {rows:,} x h {hidden:,}, bf16",
        make_inputs=make_inputs,
        triton=lambda x, weight, bias: layer_norm.layer_norm(x, weight, bias, EPS),
        reference=lambda x, weight, bias: reference.layer_norm(x, weight, bias, EPS),
        costs=costs(rows, hidden),
        tolerance=1e-2,
        baselines={"torch": lambda x, weight, bias: functional.layer_norm(x, weight.shape, weight, bias, EPS)},
    )


def cases() -> tuple[Case, ...]:
    """StarCoder and StarCoder2-3B."""
    return case("StarCoder", 2048, 6144), case("StarCoder2-3B", 16384, 3072)
