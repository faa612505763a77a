"""The end of a half block where no LayerNorm follows at once: StarCoder's with dropout over tp = 4, StarCoder2-3B's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
from torch import Tensor

from megacode.kernels import bias_dropout_residual, reference, row_sums, torch_elementwise
from megacode.kernels.cases.case import Case, Cost
from megacode.kernels.cases.partial_sums import BF16, adding, written_bytes
from megacode.kernels.counter_random import HiddenDropout, fold_seed


def costs(rows: int, hidden: int, drops: bool) -> Mapping[str, Cost]:
    """Of bf16 [rows, h] and [h]; the mask is 8 integer operations. Forward reads the bias once per tile of rows."""
    elements, vector = rows * hidden, hidden * BF16
    tiles, runs = triton.cdiv(rows, bias_dropout_residual.FORWARD_ROWS), row_sums.count_runs(rows, hidden)
    forward = 3 * elements * BF16
    backward = (2 if drops else 1) * elements * BF16
    mask = 9 if drops else 0
    return {
        "bias_dropout_residual_forward_kernel": Cost(forward + tiles * vector, forward + vector, (2 + mask) * elements),
        "bias_dropout_residual_backward_kernel": Cost(
            backward + written_bytes(1, runs, hidden), backward, (1 + mask) * elements
        ),
        "sum_partials_kernel": adding(1, runs, hidden),
    }


def case(name: str, length: int, hidden: int, dropout: HiddenDropout | None) -> Case:
    """Add bf16 [1, s, h]."""

    def make_inputs(device: torch.device) -> tuple[Tensor, ...]:
        wide = (1, length, hidden)
        return tuple(
            torch.randn(shape, dtype=torch.bfloat16, device=device, requires_grad=True)
            for shape in (wide, (hidden,), wide)
        )

    return Case(
        op="bias_dropout_residual",
        shape=f"{name}, s {length:,} x h {hidden:,}, bf16, dropout {dropout.probability if dropout else 0}",
        make_inputs=make_inputs,
        triton=lambda *inputs: bias_dropout_residual.bias_dropout_residual(*inputs, dropout),
        reference=lambda *inputs: reference.bias_dropout_residual(*inputs, dropout),
        costs=costs(length, hidden, dropout is not None),
        tolerance=1e-2,
        baselines={"torch": lambda *inputs: torch_elementwise.bias_dropout_residual(*inputs, dropout)},
    )


def cases() -> tuple[Case, ...]:
    """StarCoder and StarCoder2-3B."""
    dropout = HiddenDropout(probability=0.1, seed=fold_seed(1234, 5), first_position=2048, length=8192)
    return case("StarCoder", 2048, 6144, dropout), case("StarCoder2-3B", 16384, 3072, None)
