"""Bias and GELU inside the feed-forward, over whole sequences: StarCoder's columns over tp = 4, StarCoder2-3B's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
from torch import Tensor
from torch.nn import functional

from megacode.kernels import bias_gelu, reference, row_sums
from megacode.kernels.cases.case import Case, Cost
from megacode.kernels.cases.partial_sums import BF16, adding, written_bytes


def costs(rows: int, width: int) -> Mapping[str, Cost]:
    """Of bf16 [rows, f] and [f]; forward reads the bias once per tile of rows, backward once per program.

    Forward: 1 for the bias, 4 for the cubic, 4 for the sigmoid and its product. Backward: 17.
    """
    elements, vector = rows * width, width * BF16
    tiles, runs = triton.cdiv(rows, bias_gelu.FORWARD_ROWS), row_sums.count_runs(rows, width)
    forward, backward = 2 * elements * BF16, 3 * elements * BF16
    partials = written_bytes(1, runs, width)
    return {
        "bias_gelu_forward_kernel": Cost(forward + tiles * vector, forward + vector, 9 * elements),
        "bias_gelu_backward_kernel": Cost(backward + runs * vector + partials, backward + vector, 17 * elements),
        "sum_partials_kernel": adding(1, runs, width),
    }


def case(name: str, rows: int, width: int) -> Case:
    """Bias and GELU of bf16 [1, s, f]."""

    def make_inputs(device: torch.device) -> tuple[Tensor, ...]:
        return tuple(
            torch.randn(shape, dtype=torch.bfloat16, device=device, requires_grad=True)
            for shape in ((1, rows, width), (width,))
        )

    return Case(
        op="bias_gelu",
        shape=f"{name}, s {rows:,} x f {width:,}, bf16",
        make_inputs=make_inputs,
        triton=bias_gelu.bias_gelu,
        reference=reference.bias_gelu,
        costs=costs(rows, width),
        tolerance=1e-2,
        baselines={"torch": lambda x, bias: functional.gelu(x + bias, approximate="tanh")},
    )


def cases() -> tuple[Case, ...]:
    """StarCoder and StarCoder2-3B."""
    return case("StarCoder", 8192, 6144), case("StarCoder2-3B", 16384, 12288)
