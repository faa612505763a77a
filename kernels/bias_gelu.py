"""Bias and tanh GELU in Triton: x read once and y written once forward; x and the gradient read once backward.

Backward takes x and the bias again rather than their sum, so that nothing is written for it; the bias's gradient is
summed in the kernel that computes x's, by `row_sums.py`.

tanh(u) is 2 sigmoid(2u) - 1, so that u / 2 (1 + tanh) is a product with one sigmoid, which needs only exp.

Meaning, shapes and source: `reference.bias_gelu`. Arithmetic and sums are fp32; x may be bf16, fp16 or fp32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megacode.kernels.row_sums import TILE_ROWS, TILE_STAGES, TILE_WARPS, count_runs, sum_partials, tile_columns

FORWARD_ROWS = 16  # a tile of 512 columns then reads the bias for a thirty-second of what else it moves
_FORWARD_WARPS = 8
# Constants stand on the right of products: on the left, Triton's interpreter does not take them.
_TWICE_ROOT = tl.constexpr(1.5957691216057308)  # 2 sqrt(2 / pi)
_CUBIC = tl.constexpr(0.044715)


@triton.jit
def gate_of(values, square):
    """Return sigmoid(2u) for fp32 values of any shape and their squares; exp may overflow to inf, which gives 0."""
    return 1.0 / (1.0 + tl.exp(values * -_TWICE_ROOT * (square * _CUBIC + 1.0)))


@triton.jit
def bias_gelu_forward_kernel(
    x, bias, output, num_rows, width, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr
):  # fmt: skip
    """Compute one tile per program. Reads x [rows, f], bias [f]; writes output [rows, f]."""
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = (rows < num_rows)[:, None] & (columns < width)[None, :]
    offsets = rows.to(tl.int64)[:, None] * width + columns[None, :]
    shift = tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)
    values = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32) + shift[None, :]
    result = values * gate_of(values, values * values)
    tl.store(output + offsets, result.to(output.dtype.element_ty), mask=inside)


@triton.jit
def bias_gelu_backward_kernel(
    grad, x, bias, grad_x, partials, num_rows, width,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Differentiate every num_programs-th tile of one column of tiles per program.

    Reads grad and x [rows, f], bias [f]; writes grad_x [rows, f] and this program's part of partials, fp32
    [1, runs, f].
    """
    run, runs = tl.program_id(0), tl.num_programs(0)
    columns = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    shift = tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], dtype=tl.float32)
    for tile in tl.range(run, tl.cdiv(num_rows, BLOCK_ROWS), runs, num_stages=STAGES):
        rows = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        inside = (rows < num_rows)[:, None] & (columns < width)[None, :]
        offsets = rows.to(tl.int64)[:, None] * width + columns[None, :]
        values = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32) + shift[None, :]
        square = values * values
        gate = gate_of(values, square)
        slope = gate + values * gate * (1.0 - gate) * _TWICE_ROOT * (square * (3.0 * _CUBIC) + 1.0)
        result = tl.load(grad + offsets, mask=inside, other=0.0).to(tl.float32) * slope
        tl.store(grad_x + offsets, result.to(grad_x.dtype.element_ty), mask=inside)
        total += result
    tl.store(partials + run.to(tl.int64) * width + columns, tl.sum(total, axis=0), mask=columns < width)


class _BiasGelu(torch.autograd.Function):
    """Autograd for the kernels above; x is [rows, f] and contiguous."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor) -> Tensor:
        rows, width = x.shape
        columns = tile_columns(width)
        output = torch.empty_like(x)
        bias_gelu_forward_kernel[(triton.cdiv(rows, FORWARD_ROWS), triton.cdiv(width, columns))](
            x, bias, output, rows, width, BLOCK_ROWS=FORWARD_ROWS, BLOCK_COLUMNS=columns, num_warps=_FORWARD_WARPS
        )
        ctx.save_for_backward(x, bias)
        return output

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, bias = ctx.saved_tensors
        rows, width = x.shape
        columns, runs = tile_columns(width), count_runs(rows, width)
        grad_x = torch.empty_like(x)
        partials = torch.empty(1, runs, width, dtype=torch.float32, device=x.device)
        bias_gelu_backward_kernel[(runs, triton.cdiv(width, columns))](
            grad.contiguous(), x, bias, grad_x, partials, rows, width,
            BLOCK_ROWS=TILE_ROWS, BLOCK_COLUMNS=columns, STAGES=TILE_STAGES, num_warps=TILE_WARPS,
        )  # fmt: skip
        return grad_x, *sum_partials(partials, bias.dtype)


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """`reference.bias_gelu` in Triton, differentiable in x and bias. x is kept for backward and not overwritten.

    Shapes: x [..., f] bf16, fp16 or fp32, bias [f] of any of these; returns [..., f] in x's dtype.
    Raises ValueError where x is empty or the widths differ.
    """
    width = x.shape[-1]
    if bias.shape != (width,) or x.numel() == 0:
        raise ValueError(f"bias {tuple(bias.shape)} must be [f] for x [..., f], got {tuple(x.shape)}, and x not empty")
    return _BiasGelu.apply(x.reshape(-1, width).contiguous(), bias.contiguous()).view(x.shape)
