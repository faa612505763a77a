"""AdamW over a shard of a bucket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from megacode.kernels import adamw, reference, torch_optim_loss
from megacode.kernels.cases.case import Case, Cost
from megacode.kernels.cases.partial_sums import BF16, FP32
from megacode.kernels.torch_optim_loss import AdamWHyper

HYPER = AdamWHyper(lr=3e-4, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
UPDATE = 3


def costs(length: int) -> Mapping[str, Cost]:
    """Of fp32 [n]: four read, three written, and bf16 weights written.

    1 to divide, 3 for the mean, 4 for the square, 3 for the deviation, 4 for the value, and 2 roundings.
    """
    moved = length * (4 * FP32 + 3 * FP32 + BF16) + FP32
    return {"adamw_kernel": Cost(moved, moved, 17 * length)}


def run(
    update: Callable[..., None],
    master: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    weights: Tensor,
    divisor: Tensor,
) -> tuple[Tensor, ...]:
    """What an update writes."""
    update(master, exp_avg, exp_avg_sq, gradient, weights, HYPER, UPDATE, divisor)
    return master, exp_avg, exp_avg_sq, weights


def case(name: str, length: int) -> Case:
    """One update of fp32 [n] with a clipped gradient."""

    def make_inputs(device: torch.device) -> tuple[Tensor, ...]:
        master, exp_avg, gradient = (torch.randn(length, device=device) for _ in range(3))
        exp_avg_sq = torch.rand(length, device=device)
        return master, exp_avg, exp_avg_sq, gradient, master.bfloat16(), torch.full((), 1.25, device=device)

    return Case(
        op="adamw",
        shape=f"{name}, {length:,} elements",
        make_inputs=make_inputs,
        triton=partial(run, adamw.adamw),
        reference=partial(run, reference.adamw),
        costs=costs(length),
        tolerance=1e-2,  # of the bf16 weights
        has_backward=False,
        baselines={"torch (fused)": partial(run, torch_optim_loss.adamw)},
    )


def cases() -> tuple[Case, ...]:
    """A matrix of StarCoder's MLP over tp = 4, and StarCoder2-3B's embedding."""
    return case("StarCoder", 6144 * 6144), case("StarCoder2-3B", 49152 * 3072)
