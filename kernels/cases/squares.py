"""The sum of squares of a shard of a bucket, for the global norm, and its division."""

from __future__ import annotations

import torch
from torch import Tensor

from megacode.kernels import reference, squares, torch_optim_loss
from megacode.kernels.cases.case import Case, Cost
from megacode.kernels.cases.partial_sums import FP32

_FP64 = 8  # bytes
LENGTH = 6144 * 6144  # a matrix of StarCoder's MLP over tp = 4


def sum_case() -> Case:
    """Sum the squares of fp32 [n]; a product and a sum an element."""
    runs = -(-LENGTH // squares.RUN)
    return Case(
        op="sum_of_squares",
        shape=f"StarCoder, {LENGTH:,} elements",
        make_inputs=lambda device: (torch.randn(LENGTH, device=device),),
        triton=squares.sum_of_squares,
        reference=reference.sum_of_squares,
        costs={
            "squares_kernel": Cost(LENGTH * FP32 + runs * _FP64, LENGTH * FP32, 2 * LENGTH),
            "total_kernel": Cost(runs * _FP64 + _FP64, _FP64, runs),
        },
        tolerance=1e-6,
        has_backward=False,
        baselines={"torch": torch_optim_loss.sum_of_squares},
    )


def scale_case() -> Case:
    """Divide fp32 [n] in place."""

    def run(x: Tensor, divisor: Tensor) -> Tensor:
        squares.scale_(x, divisor)
        return x

    moved = 2 * LENGTH * FP32 + FP32
    return Case(
        op="scale_",
        shape=f"StarCoder, {LENGTH:,} elements",
        make_inputs=lambda device: (torch.randn(LENGTH, device=device), torch.full((), 1.25, device=device)),
        triton=run,
        reference=lambda x, divisor: x / divisor,
        costs={"scale_kernel": Cost(moved, moved, LENGTH)},
        tolerance=1e-6,
        has_backward=False,
        baselines={"torch": lambda x, divisor: x.div_(divisor)},
    )


def cases() -> tuple[Case, ...]:
    """Both."""
    return sum_case(), scale_case()
