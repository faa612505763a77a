"""What stands between two halves of a block, in Triton: residual + dropout(branch + bias), and LayerNorm of the sum.

One pass forward: branch and residual are read once, the sum and its normalized form written once. One pass backward:
both gradients and the sum are read once, the gradients of residual and branch written once (one tensor for both where
nothing is dropped), with the sums over rows for three parameters in registers. The mask is drawn again from its seed.
Programs walk over rows as `rows.py` says; the sums are those of `row_sums.py`.

Meaning, shapes and sources: `reference.add_layer_norm`. Statistics and sums are fp32; inputs bf16, fp16 or fp32.

Limits: above h = 8192 the backward's sums outgrow the registers and spill; right, but slower.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megacode.kernels.bias_dropout_residual import check_branch, dropout_arguments, hidden_row_keys
from megacode.kernels.counter_random import HiddenDropout
from megacode.kernels.counter_random_kernels import column_keys, keep
from megacode.kernels.layer_norm import centre_row, inverse_deviation_of, row_gradient
from megacode.kernels.row_sums import sum_partials
from megacode.kernels.rows import MAX_HIDDEN, load_part, load_row, plan_rows, store_part, store_row, zero_row

# Bytes per program: three fp32 sums, written and read, and the weight (24 h + 2 h in bf16), and forward the branch's
# bias, weight and bias (6 h). Bytes per row: 16 h, or 18 h with dropout. So 19 rows a program are a tenth.
ROWS_PER_PROGRAM = 19


@triton.jit
def drop_part(values, row, row_key, part: tl.constexpr, keep_scale, PART: tl.constexpr, DROP_BELOW: tl.constexpr):
    """Return one part of a row, fp32 [PART], after dropout; `row_key` is the row's random key."""
    # min(row, 0) is 0, which the compiler cannot know: else it holds the keys of all columns in registers.
    columns = part * PART + tl.arange(0, PART) + tl.minimum(row, 0)
    return tl.where(keep(row_key, column_keys(columns), DROP_BELOW), values * keep_scale, 0.0)


@triton.jit(do_not_specialize=["seed", "first_position"])
def add_layer_norm_forward_kernel(
    branch, branch_bias, residual, weight, bias, total, normalized, means, inverse_deviations, num_rows, hidden, eps,
    local, keep_scale, seed: tl.int64, first_position, length,
    PART: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr, DROP_BELOW: tl.constexpr,
):  # fmt: skip
    """Add and normalize every num_programs-th row per program.

    Reads branch and residual [rows, h], branch_bias, weight and bias [h]; writes total and normalized [rows, h], means
    and inverse_deviations fp32 [rows]. DROP_BELOW 0 drops nothing.
    """
    branch_shift = load_row(branch_bias, hidden, PART, PARTS)
    scale = load_row(weight, hidden, PART, PARTS)
    shift = load_row(bias, hidden, PART, PARTS)
    for row in tl.range(tl.program_id(0), num_rows, tl.num_programs(0), num_stages=STAGES):
        start = tl.cast(row, tl.int64) * hidden
        sums = ()
        for part in tl.static_range(PARTS):
            added = load_part(branch + start, part, hidden, PART, PARTS) + branch_shift[part]
            if DROP_BELOW > 0:
                row_key = hidden_row_keys(seed, row, local, first_position, length)
                added = drop_part(added, row, row_key, part, keep_scale, PART, DROP_BELOW)
            added += load_part(residual + start, part, hidden, PART, PARTS)
            rounded = added.to(total.dtype.element_ty)
            store_part(total + start, rounded, part, hidden, PART, PARTS)
            # Normalized as it was rounded: backward has nothing else to differentiate at.
            sums += (rounded.to(tl.float32),)
        centred, mean = centre_row(sums, hidden, PART, PARTS)
        inverse_deviation = inverse_deviation_of(centred, hidden, eps, PARTS)
        for part in tl.static_range(PARTS):
            result = centred[part] * inverse_deviation * scale[part] + shift[part]
            store_part(normalized + start, result, part, hidden, PART, PARTS)
        tl.store(means + row, mean)
        tl.store(inverse_deviations + row, inverse_deviation)


@triton.jit(do_not_specialize=["seed", "first_position"])
def add_layer_norm_backward_kernel(
    grad_total, grad_normalized, total, weight, means, inverse_deviations, grad_residual, grad_branch, partials,
    num_rows, hidden, local, keep_scale, seed: tl.int64, first_position, length,
    PART: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr, DROP_BELOW: tl.constexpr,
    HAS_GRAD_TOTAL: tl.constexpr,
):  # fmt: skip
    """Differentiate every num_programs-th row per program.

    Reads grad_total (if HAS_GRAD_TOTAL), grad_normalized and total [rows, h], weight [h], means and inverse_deviations
    fp32 [rows]; writes grad_residual [rows, h], grad_branch [rows, h] where anything is dropped, and this program's
    rows of partials, fp32 [3, programs, h]: the sums of the branch's bias, of the weight and of the bias.
    """
    program = tl.program_id(0)
    scale = load_row(weight, hidden, PART, PARTS)
    branch_sums, weight_sums, bias_sums = zero_row(PART, PARTS), zero_row(PART, PARTS), zero_row(PART, PARTS)
    for row in tl.range(program, num_rows, tl.num_programs(0), num_stages=STAGES):
        start = tl.cast(row, tl.int64) * hidden
        mean, inverse_deviation = tl.load(means + row), tl.load(inverse_deviations + row)
        scaled, normal_row, new_branch_sums, new_weight_sums, new_bias_sums = (), (), (), (), ()
        for part in tl.static_range(PARTS):
            grad = load_part(grad_normalized + start, part, hidden, PART, PARTS)
            normal = (load_part(total + start, part, hidden, PART, PARTS) - mean) * inverse_deviation
            scaled += (grad * scale[part],)
            normal_row += (normal,)
            new_weight_sums += (weight_sums[part] + grad * normal,)
            new_bias_sums += (bias_sums[part] + grad,)
        gradient = row_gradient(scaled, normal_row, inverse_deviation, hidden, PARTS)
        for part in tl.static_range(PARTS):
            result = gradient[part]
            if HAS_GRAD_TOTAL:
                result += load_part(grad_total + start, part, hidden, PART, PARTS)
            store_part(grad_residual + start, result, part, hidden, PART, PARTS)
            if DROP_BELOW > 0:
                row_key = hidden_row_keys(seed, row, local, first_position, length)
                result = drop_part(result, row, row_key, part, keep_scale, PART, DROP_BELOW)
                store_part(grad_branch + start, result, part, hidden, PART, PARTS)
            new_branch_sums += (branch_sums[part] + result,)
        branch_sums, weight_sums, bias_sums = new_branch_sums, new_weight_sums, new_bias_sums
    distance = tl.num_programs(0).to(tl.int64) * hidden
    to_branch = partials + program.to(tl.int64) * hidden
    store_row(to_branch, branch_sums, hidden, PART, PARTS)
    store_row(to_branch + distance, weight_sums, hidden, PART, PARTS)
    store_row(to_branch + 2 * distance, bias_sums, hidden, PART, PARTS)


class _AddLayerNorm(torch.autograd.Function):
    """Autograd for the kernels above; branch and residual are [b, s, h] and contiguous."""

    @staticmethod
    def forward(
        ctx, branch: Tensor, branch_bias: Tensor, residual: Tensor, dropout: HiddenDropout | None, weight: Tensor,
        bias: Tensor, eps: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        batch, local, hidden = branch.shape
        rows = batch * local
        arguments, drop_below = dropout_arguments(dropout, local)
        total, normalized = torch.empty_like(residual), torch.empty_like(residual)
        means = torch.empty(rows, dtype=torch.float32, device=branch.device)
        inverse_deviations = torch.empty_like(means)
        plan = plan_rows(rows, hidden, ROWS_PER_PROGRAM)
        add_layer_norm_forward_kernel[(plan.programs,)](
            branch, branch_bias, residual, weight, bias, total, normalized, means, inverse_deviations,
            rows, hidden, eps, local, *arguments,
            DROP_BELOW=drop_below, **plan.options(2, max(branch.element_size(), residual.element_size())),
        )  # fmt: skip
        ctx.save_for_backward(total, weight, means, inverse_deviations)
        ctx.set_materialize_grads(False)
        ctx.dropout, ctx.branch_dtype, ctx.bias_dtypes = dropout, branch.dtype, (branch_bias.dtype, bias.dtype)
        return total, normalized

    @staticmethod
    def backward(ctx, grad_total: Tensor | None, grad_normalized: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight, means, inverse_deviations = ctx.saved_tensors
        batch, local, hidden = total.shape
        rows = batch * local
        arguments, drop_below = dropout_arguments(ctx.dropout, local)
        grad_normalized = torch.zeros_like(total) if grad_normalized is None else grad_normalized.contiguous()
        grad_residual = torch.empty_like(total)
        grad_branch = torch.empty_like(total, dtype=ctx.branch_dtype) if drop_below else grad_residual
        plan = plan_rows(rows, hidden, ROWS_PER_PROGRAM)
        partials = torch.empty(3, plan.programs, hidden, dtype=torch.float32, device=total.device)
        add_layer_norm_backward_kernel[(plan.programs,)](
            grad_normalized if grad_total is None else grad_total.contiguous(), grad_normalized, total, weight, means,
            inverse_deviations, grad_residual, grad_branch, partials, rows, hidden, local, *arguments,
            DROP_BELOW=drop_below, HAS_GRAD_TOTAL=grad_total is not None,
            **plan.options(2 if grad_total is None else 3, total.element_size()),
        )  # fmt: skip
        branch_bias_dtype, bias_dtype = ctx.bias_dtypes
        sums = sum_partials(partials, branch_bias_dtype, weight.dtype, bias_dtype)
        return grad_branch, sums[0], grad_residual, None, sums[1], sums[2], None


def add_layer_norm(
    branch: Tensor,
    branch_bias: Tensor,
    residual: Tensor,
    dropout: HiddenDropout | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """`reference.add_layer_norm` in Triton, differentiable in all tensors; returns (total, normalized).

    Without dropout, backward gives one tensor as the gradient of both branch and residual.

    Shapes: branch and residual [b, s, h], branch_bias, weight and bias [h], each bf16, fp16 or fp32; returns two
    [b, s, h] in residual's dtype.
    Raises ValueError where shapes differ or are empty, h is above 65536, or positions reach beyond dropout.length.
    """
    check_branch(branch, branch_bias, residual)
    hidden = branch.shape[-1]
    if weight.shape != (hidden,) or bias.shape != (hidden,) or hidden > MAX_HIDDEN:
        raise ValueError(
            f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)} must be [h] for branch [b, s, {hidden}], "
            f"h at most {MAX_HIDDEN}"
        )
    vectors = branch_bias.contiguous(), weight.contiguous(), bias.contiguous()
    return _AddLayerNorm.apply(
        branch.contiguous(), vectors[0], residual.contiguous(), dropout, vectors[1], vectors[2], eps
    )
