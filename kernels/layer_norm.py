"""LayerNorm in Triton: one read of x forward, one read of x and of the gradient backward.

The weight and bias gradients sum over all rows without atomics, so they repeat bit for bit: each program sums its own
run of rows in registers and writes one partial row, and a second kernel adds the partial rows in order.

Meaning, shapes and source: `reference.layer_norm`. Statistics and sums are fp32; x may be bf16, fp16 or fp32.

Limits: above h = 8192 the backward's sums outgrow the registers and spill; right, but slower.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows of partial sums in the backward: a constant rather than a count of multiprocessors, so that every GPU gives the
# same bits; about two programs for each multiprocessor of an A100 or H100.
_MAX_PARTIALS = 256
_MAX_HIDDEN = 65536
_REDUCE_ROWS = 64
_REDUCE_COLUMNS = 64


@triton.jit
def layer_norm_forward_kernel(
    x, weight, bias, output, means, inverse_deviations, hidden, eps, BLOCK: tl.constexpr
):  # fmt: skip
    """Normalize one row per program.

    Reads x [rows, h], weight [h], bias [h]; writes output [rows, h], means and inverse_deviations fp32 [rows].
    """
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < hidden
    start = row.to(tl.int64) * hidden
    values = tl.load(x + start + columns, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, axis=0) / hidden
    # The variance is taken from centred values: E[x^2] - E[x]^2 cancels where the mean is large.
    centred = tl.where(inside, values - mean, 0.0)
    inverse_deviation = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / hidden + eps)
    scale = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    result = centred * inverse_deviation * scale + shift
    tl.store(output + start + columns, result.to(output.dtype.element_ty), mask=inside)
    tl.store(means + row, mean)
    tl.store(inverse_deviations + row, inverse_deviation)


@triton.jit
def layer_norm_backward_kernel(
    grad_output, x, weight, means, inverse_deviations, grad_x, partial_weight, partial_bias,
    num_rows, hidden, rows_per_program, BLOCK: tl.constexpr,
):  # fmt: skip
    """Differentiate a run of rows per program.

    Reads grad_output and x [rows, h], weight [h], means and inverse_deviations fp32 [rows]; writes grad_x [rows, h],
    and this program's row of partial_weight and partial_bias, fp32 [programs, h].
    """
    program = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < hidden
    scale = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    weight_sum = tl.zeros([BLOCK], dtype=tl.float32)
    bias_sum = tl.zeros([BLOCK], dtype=tl.float32)
    first = program * rows_per_program
    for row in range(first, tl.minimum(first + rows_per_program, num_rows)):
        start = tl.cast(row, tl.int64) * hidden
        mean = tl.load(means + row)
        inverse_deviation = tl.load(inverse_deviations + row)
        values = tl.load(x + start + columns, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_output + start + columns, mask=inside, other=0.0).to(tl.float32)
        normalized = tl.where(inside, (values - mean) * inverse_deviation, 0.0)
        weight_sum += grad * normalized
        bias_sum += grad
        scaled = grad * scale
        # Remove what the mean and the variance take back: the parts along 1 and along the normalized row.
        along_row = tl.sum(scaled * normalized, axis=0) / hidden
        along_one = tl.sum(scaled, axis=0) / hidden
        result = (scaled - along_one - normalized * along_row) * inverse_deviation
        tl.store(grad_x + start + columns, result.to(grad_x.dtype.element_ty), mask=inside)
    partial = program.to(tl.int64) * hidden
    tl.store(partial_weight + partial + columns, weight_sum, mask=inside)
    tl.store(partial_bias + partial + columns, bias_sum, mask=inside)


@triton.jit
def layer_norm_reduce_kernel(
    partial_weight, partial_bias, grad_weight, grad_bias, num_partials, hidden,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add partial_weight and partial_bias, fp32 [programs, h], in order; writes grad_weight and grad_bias [h]."""
    columns = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = columns < hidden
    weight_sum = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], dtype=tl.float32)
    bias_sum = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], dtype=tl.float32)
    for first in range(0, num_partials, BLOCK_ROWS):
        rows = first + tl.arange(0, BLOCK_ROWS)
        offsets = rows.to(tl.int64)[:, None] * hidden + columns[None, :]
        mask = (rows < num_partials)[:, None] & inside[None, :]
        weight_sum += tl.load(partial_weight + offsets, mask=mask, other=0.0)
        bias_sum += tl.load(partial_bias + offsets, mask=mask, other=0.0)
    tl.store(grad_weight + columns, tl.sum(weight_sum, axis=0).to(grad_weight.dtype.element_ty), mask=inside)
    tl.store(grad_bias + columns, tl.sum(bias_sum, axis=0).to(grad_bias.dtype.element_ty), mask=inside)


def _num_warps(block: int) -> int:
    """Return warps per program for a row of `block` elements: up to 32 elements a thread."""
    return min(max(block // 1024, 4), 16)


class _LayerNorm(torch.autograd.Function):
    """Autograd for the kernels above; x is [rows, h] and contiguous."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        rows, hidden = x.shape
        output = torch.empty_like(x)
        means = torch.empty(rows, dtype=torch.float32, device=x.device)
        inverse_deviations = torch.empty(rows, dtype=torch.float32, device=x.device)
        block = triton.next_power_of_2(hidden)
        layer_norm_forward_kernel[(rows,)](
            x, weight, bias, output, means, inverse_deviations, hidden, eps, BLOCK=block, num_warps=_num_warps(block)
        )
        ctx.save_for_backward(x, weight, means, inverse_deviations)
        ctx.bias_dtype = bias.dtype
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, means, inverse_deviations = ctx.saved_tensors
        rows, hidden = x.shape
        rows_per_program = triton.cdiv(rows, _MAX_PARTIALS)
        programs = triton.cdiv(rows, rows_per_program)
        grad_x = torch.empty_like(x)
        partial_weight = torch.empty(programs, hidden, dtype=torch.float32, device=x.device)
        partial_bias = torch.empty_like(partial_weight)
        grad_weight = torch.empty_like(weight)
        grad_bias = torch.empty(hidden, dtype=ctx.bias_dtype, device=x.device)
        block = triton.next_power_of_2(hidden)
        layer_norm_backward_kernel[(programs,)](
            grad_output.contiguous(), x, weight, means, inverse_deviations, grad_x, partial_weight, partial_bias,
            rows, hidden, rows_per_program, BLOCK=block, num_warps=_num_warps(block),
        )  # fmt: skip
        layer_norm_reduce_kernel[(triton.cdiv(hidden, _REDUCE_COLUMNS),)](
            partial_weight, partial_bias, grad_weight, grad_bias, programs, hidden,
            BLOCK_ROWS=_REDUCE_ROWS, BLOCK_COLUMNS=_REDUCE_COLUMNS, num_warps=4,
        )  # fmt: skip
        return grad_x, grad_weight, grad_bias, None


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`reference.layer_norm` in Triton, differentiable in x, weight and bias.

    Shapes: x [..., h] bf16, fp16 or fp32, weight and bias [h] of any of these; returns [..., h] in x's dtype.
    Raises ValueError where x is empty, the widths differ or h is above 65536.
    """
    hidden = x.shape[-1]
    if weight.shape != (hidden,) or bias.shape != (hidden,):
        raise ValueError(f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)} must be [h] for x [..., {hidden}]")
    if x.numel() == 0 or hidden > _MAX_HIDDEN:
        raise ValueError(f"x must have rows and at most {_MAX_HIDDEN} columns, got shape {tuple(x.shape)}")
    rows = x.reshape(-1, hidden).contiguous()
    return _LayerNorm.apply(rows, weight.contiguous(), bias.contiguous(), eps).view(x.shape)
