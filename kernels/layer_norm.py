"""LayerNorm in Triton: one read of x forward, one read of x and of the gradient backward.

Programs walk over rows with the weight and the bias in registers, and the sums for their gradients too: see `rows.py`
and `row_sums.py`. They are few enough for all that is moved, partial sums and parameters included, to stay within 1.1
times the rows themselves from 2,048 bf16 rows on.

Meaning, shapes and source: `reference.layer_norm`. Statistics and sums are fp32; x may be bf16, fp16 or fp32.

Limits: above h = 8192 the backward's sums outgrow the registers and spill; right, but slower.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megacode.kernels.row_sums import sum_partials
from megacode.kernels.rows import MAX_HIDDEN, load_part, load_row, plan_rows, store_part, store_row, sum_row, zero_row

# Bytes per program: the backward's two fp32 sums, written and read, and the weight (16 h + 2 h in bf16), the forward's
# weight and bias (4 h). Bytes per row: 10 h. So 22 rows a program are a tenth; one more for the rows' own statistics.
ROWS_PER_PROGRAM = 23


@triton.jit
def centre_row(values, hidden, PART: tl.constexpr, PARTS: tl.constexpr):
    """Return a row (PARTS tensors fp32 [PART]) less its mean, 0 outside, and the mean."""
    mean = sum_row(values, PARTS) / hidden
    centred = ()
    for part in tl.static_range(PARTS):
        less = values[part] - mean
        if part == PARTS - 1:
            less = tl.where(part * PART + tl.arange(0, PART) < hidden, less, 0.0)
        centred += (less,)
    return centred, mean


@triton.jit
def inverse_deviation_of(centred, hidden, eps, PARTS: tl.constexpr):
    """Return 1 / sqrt(variance + eps) of a centred row (PARTS tensors fp32)."""
    # From centred values: E[x^2] - E[x]^2 would cancel where the mean is large.
    squares = centred[0] * centred[0]
    for part in tl.static_range(1, PARTS):
        squares += centred[part] * centred[part]
    return 1.0 / tl.sqrt(tl.sum(squares, axis=0) / hidden + eps)


@triton.jit
def row_gradient(scaled, normalized, inverse_deviation, hidden, PARTS: tl.constexpr):
    """Return the gradient of a row, from gradient * weight, 0 outside, and the normalized row: PARTS tensors fp32."""
    along = scaled[0] * normalized[0]
    for part in tl.static_range(1, PARTS):
        along += scaled[part] * normalized[part]
    # Remove what the mean and the variance take back: the parts along 1 and along the normalized row.
    along_row = tl.sum(along, axis=0) / hidden
    along_one = sum_row(scaled, PARTS) / hidden
    gradient = ()
    for part in tl.static_range(PARTS):
        gradient += ((scaled[part] - along_one - normalized[part] * along_row) * inverse_deviation,)
    return gradient


@triton.jit
def layer_norm_forward_kernel(
    x, weight, bias, output, means, inverse_deviations, num_rows, hidden, eps,
    PART: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Normalize every num_programs-th row per program.

    Reads x [rows, h], weight [h], bias [h]; writes output [rows, h], means and inverse_deviations fp32 [rows].
    """
    scale = load_row(weight, hidden, PART, PARTS)
    shift = load_row(bias, hidden, PART, PARTS)
    for row in tl.range(tl.program_id(0), num_rows, tl.num_programs(0), num_stages=STAGES):
        start = tl.cast(row, tl.int64) * hidden
        centred, mean = centre_row(load_row(x + start, hidden, PART, PARTS), hidden, PART, PARTS)
        inverse_deviation = inverse_deviation_of(centred, hidden, eps, PARTS)
        for part in tl.static_range(PARTS):
            result = centred[part] * inverse_deviation * scale[part] + shift[part]
            store_part(output + start, result, part, hidden, PART, PARTS)
        tl.store(means + row, mean)
        tl.store(inverse_deviations + row, inverse_deviation)


@triton.jit
def layer_norm_backward_kernel(
    grad_output, x, weight, means, inverse_deviations, grad_x, partials, num_rows, hidden,
    PART: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Differentiate every num_programs-th row per program.

    Reads grad_output and x [rows, h], weight [h], means and inverse_deviations fp32 [rows]; writes grad_x [rows, h],
    and this program's rows of partials, fp32 [2, programs, h]: the weight's sums, then the bias's.
    """
    program = tl.program_id(0)
    scale = load_row(weight, hidden, PART, PARTS)
    weight_sums, bias_sums = zero_row(PART, PARTS), zero_row(PART, PARTS)
    for row in tl.range(program, num_rows, tl.num_programs(0), num_stages=STAGES):
        start = tl.cast(row, tl.int64) * hidden
        mean, inverse_deviation = tl.load(means + row), tl.load(inverse_deviations + row)
        scaled, normalized, new_weight_sums, new_bias_sums = (), (), (), ()
        for part in tl.static_range(PARTS):
            grad = load_part(grad_output + start, part, hidden, PART, PARTS)
            normal = (load_part(x + start, part, hidden, PART, PARTS) - mean) * inverse_deviation
            scaled += (grad * scale[part],)
            normalized += (normal,)
            new_weight_sums += (weight_sums[part] + grad * normal,)
            new_bias_sums += (bias_sums[part] + grad,)
        weight_sums, bias_sums = new_weight_sums, new_bias_sums
        gradient = row_gradient(scaled, normalized, inverse_deviation, hidden, PARTS)
        store_row(grad_x + start, gradient, hidden, PART, PARTS)
    to_weight = partials + program.to(tl.int64) * hidden
    store_row(to_weight, weight_sums, hidden, PART, PARTS)
    store_row(to_weight + tl.num_programs(0).to(tl.int64) * hidden, bias_sums, hidden, PART, PARTS)


class _LayerNorm(torch.autograd.Function):
    """Autograd for the kernels above; x is [rows, h] and contiguous."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        rows, hidden = x.shape
        output = torch.empty_like(x)
        means = torch.empty(rows, dtype=torch.float32, device=x.device)
        inverse_deviations = torch.empty_like(means)
        plan = plan_rows(rows, hidden, ROWS_PER_PROGRAM)
        layer_norm_forward_kernel[(plan.programs,)](
            x, weight, bias, output, means, inverse_deviations, rows, hidden, eps, **plan.options(1, x.element_size())
        )
        ctx.save_for_backward(x, weight, means, inverse_deviations)
        ctx.bias_dtype = bias.dtype
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, means, inverse_deviations = ctx.saved_tensors
        rows, hidden = x.shape
        plan = plan_rows(rows, hidden, ROWS_PER_PROGRAM)
        grad_x = torch.empty_like(x)
        partials = torch.empty(2, plan.programs, hidden, dtype=torch.float32, device=x.device)
        layer_norm_backward_kernel[(plan.programs,)](
            grad_output.contiguous(), x, weight, means, inverse_deviations, grad_x, partials, rows, hidden,
            **plan.options(2, x.element_size()),
        )  # fmt: skip
        return grad_x, *sum_partials(partials, weight.dtype, ctx.bias_dtype), None


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`reference.layer_norm` in Triton, differentiable in x, weight and bias.

    Shapes: x [..., h] bf16, fp16 or fp32, weight and bias [h] of any of these; returns [..., h] in x's dtype.
    Raises ValueError where x is empty, the widths differ or h is above 65536.
    """
    hidden = x.shape[-1]
    if weight.shape != (hidden,) or bias.shape != (hidden,):
        raise ValueError(f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)} must be [h] for x [..., {hidden}]")
    if x.numel() == 0 or hidden > MAX_HIDDEN:
        raise ValueError(f"x must have rows and at most {MAX_HIDDEN} columns, got shape {tuple(x.shape)}")
    rows = x.reshape(-1, hidden).contiguous()
    return _LayerNorm.apply(rows, weight.contiguous(), bias.contiguous(), eps).view(x.shape)
