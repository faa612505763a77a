"""AdamW in Triton: one pass over masters, averages and gradient, which also writes the weights that training uses.

Reads 16 B an element (gradient, master, two averages) and writes 12 B, and 2 B of bf16 weights: 30 B, about 17 FLOPs.

Meaning, shapes and source: `reference.adamw`. Arithmetic is fp32, division and root rounded as IEEE 754 says, in the
order of torch's single-tensor AdamW.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megacode.kernels.torch_optim_loss import AdamWHyper

_BLOCK = 1024  # 4 elements a thread: 16 B at a time of each fp32 tensor
_WARPS = 8


@triton.jit
def adamw_kernel(
    master, exp_avg, exp_avg_sq, gradient, weights, divisor, length,
    kept, step, eps, root, rest1, beta2, rest2, BLOCK: tl.constexpr,
):  # fmt: skip
    """Update one block of elements per program.

    Reads gradient fp32 [n] and divisor fp32 scalar (or None); updates master, exp_avg, exp_avg_sq fp32 [n]; writes
    weights [n] (or None). kept: 1 - lr weight_decay; step: lr / (1 - beta1^update); root: sqrt(1 - beta2^update);
    rest1, rest2: 1 - beta1, 1 - beta2.
    """
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < length
    grad = tl.load(gradient + offsets, mask=inside, other=0.0)
    value = tl.load(master + offsets, mask=inside, other=0.0)
    mean = tl.load(exp_avg + offsets, mask=inside, other=0.0)
    square = tl.load(exp_avg_sq + offsets, mask=inside, other=0.0)
    if divisor is not None:
        grad = tl.div_rn(grad, tl.load(divisor) + tl.zeros([BLOCK], dtype=tl.float32))
    mean += rest1 * (grad - mean)
    square = square * beta2 + rest2 * grad * grad
    deviation = tl.div_rn(tl.sqrt_rn(square), root + tl.zeros([BLOCK], dtype=tl.float32)) + eps
    value = value * kept - step * tl.div_rn(mean, deviation)
    tl.store(master + offsets, value, mask=inside)
    tl.store(exp_avg + offsets, mean, mask=inside)
    tl.store(exp_avg_sq + offsets, square, mask=inside)
    if weights is not None:
        tl.store(weights + offsets, value.to(weights.dtype.element_ty), mask=inside)


def adamw(
    master: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    weights: Tensor | None,
    hyper: AdamWHyper,
    update: int,
    divisor: Tensor | None,
) -> None:
    """`reference.adamw` in Triton, which leaves the gradient as it was.

    Shapes: master, exp_avg, exp_avg_sq and gradient fp32 [n], weights [n] of any float dtype, divisor fp32 scalar.
    Raises ValueError where shapes or dtypes are others, a tensor is not contiguous, or `update` is below 1.
    """
    flat = [master, exp_avg, exp_avg_sq, gradient]
    for tensor in flat if weights is None else [*flat, weights]:
        if tensor.shape != (len(master),) or not tensor.is_contiguous():
            raise ValueError(f"all must be contiguous [n], n = {len(master)}, got a {tuple(tensor.shape)}")
    if any(tensor.dtype != torch.float32 for tensor in flat):
        raise ValueError(f"master, averages and gradient must be fp32, got {[tensor.dtype for tensor in flat]}")
    if update < 1:
        raise ValueError(f"updates count from 1, got {update}")
    # Floats, so that Triton makes one kernel for all values.
    adamw_kernel[(triton.cdiv(len(master), _BLOCK),)](
        master, exp_avg, exp_avg_sq, gradient, weights, divisor, len(master),
        kept=1.0 - hyper.lr * hyper.weight_decay,
        step=float(hyper.lr) / (1.0 - hyper.beta1**update),
        eps=float(hyper.eps),
        root=(1.0 - hyper.beta2**update) ** 0.5,
        rest1=1.0 - hyper.beta1,
        beta2=float(hyper.beta2),
        rest2=1.0 - hyper.beta2,
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )  # fmt: skip
