"""Cross entropy of as many rows as the loss takes at a time: StarCoder's vocabulary over tp = 4, StarCoder2-3B's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from megacode.kernels import cross_entropy, reference, torch_optim_loss
from megacode.kernels.cases.case import Case, Cost
from megacode.kernels.cases.partial_sums import BF16, FP32
from megacode.kernels.torch_optim_loss import VocabCrossEntropy

_INT64 = 8  # bytes


def costs(rows: int, width: int) -> Mapping[str, Cost]:
    """Of bf16 [rows, w], int64 targets, and two fp32 numbers a row, written by the one and read by the other kernel.

    Sums: a difference, its absolute value, an exponential, a product and two sums, two maxima: 8 operations an element.
    Gradient: 2 to the probability, 1 for the factor; the other kernel's own target is 1 element a row more.
    """
    elements = rows * width
    sums = elements * BF16 + rows * (_INT64 + 2 * FP32)
    gradient = 2 * elements * BF16 + rows * (_INT64 + 2 * FP32)
    programs = rows * -(-width // cross_entropy.BLOCK)
    again = (programs - rows) * (_INT64 + 2 * FP32)
    return {
        "cross_entropy_sums_kernel": Cost(sums + rows * BF16, sums, 8 * elements),
        "cross_entropy_gradient_kernel": Cost(gradient + again, gradient, 3 * elements),
    }


def run(
    over: Callable[[Tensor, Tensor], VocabCrossEntropy], logits: Tensor, targets: Tensor, factors: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses where this is the whole vocabulary, and the gradient."""
    own = over(logits, targets)
    losses = own.log_sums - own.target_logits
    return losses, own.write_gradient(own.log_sums, factors)


def by_autograd(logits: Tensor, targets: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """The same with torch's cross entropy, which keeps its result in fp32."""
    leaf = logits.detach().requires_grad_()
    losses = functional.cross_entropy(leaf.float(), targets, reduction="none")
    return losses.detach(), torch.autograd.grad(losses, leaf, factors)[0]


def case(name: str, rows: int, width: int) -> Case:
    """Losses, and the gradient over the logits, of bf16 [rows, w]."""

    def make_inputs(device: torch.device) -> tuple[Tensor, ...]:
        logits = torch.randn(rows, width, dtype=torch.bfloat16, device=device)
        return logits, torch.randint(0, width, (rows,), device=device), torch.rand(rows, device=device)

    return Case(
        op="cross_entropy",
        shape=f"{name}, rows {rows:,} x w {width:,}, bf16",
        make_inputs=make_inputs,
        triton=partial(run, cross_entropy.vocab_cross_entropy),
        reference=partial(run, reference.vocab_cross_entropy),
        costs=costs(rows, width),
        tolerance=1e-2,
        has_backward=False,
        baselines={"torch": partial(run, torch_optim_loss.vocab_cross_entropy), "torch, autograd": by_autograd},
    )


def cases() -> tuple[Case, ...]:
    """StarCoder and StarCoder2-3B; rows of 32 Mi logits, as `megacode/layers/loss.py` has them on a GPU."""
    return case("StarCoder", 2048, 12288), case("StarCoder2-3B", 656, 49152)
