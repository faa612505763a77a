"""The end of a half block in Triton: residual + dropout(branch + bias), each array read or written once.

Nothing is saved for backward: the mask is drawn again from its seed. Without dropout backward only sums the gradient
over rows for the bias, and hands it on as it is to branch and residual; the sums are those of `row_sums.py`.

Meaning and shapes: `reference.bias_dropout_residual`. Sums are fp32; inputs may be bf16, fp16 or fp32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megacode.kernels.counter_random import HiddenDropout, check_positions, drop_threshold, signed
from megacode.kernels.counter_random_kernels import column_keys, keep, row_keys
from megacode.kernels.row_sums import TILE_ROWS, TILE_STAGES, TILE_WARPS, count_runs, sum_partials, tile_columns

FORWARD_ROWS = 16  # a tile of 512 columns then reads the bias for a forty-eighth of what else it moves
_FORWARD_WARPS = 8


@triton.jit
def hidden_row_keys(seed, rows, local, first_position, length):
    """Return the random keys, uint64, of `rows` (integers of any shape), counted over b and s.

    `local` positions, from first_position on, of sequences of `length` tokens are held here: see `HiddenDropout`.
    """
    return row_keys(seed, tl.cast(rows // local, tl.int64) * length + first_position + rows % local)


@triton.jit(do_not_specialize=["seed", "first_position"])
def bias_dropout_residual_forward_kernel(
    branch, bias, residual, output, num_rows, hidden, local, keep_scale, seed: tl.int64, first_position, length,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, DROP_BELOW: tl.constexpr,
):  # fmt: skip
    """Add one tile per program.

    Reads branch and residual [rows, h], bias [h]; writes output [rows, h]. DROP_BELOW 0 drops nothing.
    """
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = (rows < num_rows)[:, None] & (columns < hidden)[None, :]
    offsets = rows.to(tl.int64)[:, None] * hidden + columns[None, :]
    shift = tl.load(bias + columns, mask=columns < hidden, other=0.0).to(tl.float32)
    added = tl.load(branch + offsets, mask=inside, other=0.0).to(tl.float32) + shift[None, :]
    if DROP_BELOW > 0:
        keys = hidden_row_keys(seed, rows, local, first_position, length)
        kept = keep(keys[:, None], column_keys(columns)[None, :], DROP_BELOW)
        added = tl.where(kept, added * keep_scale, 0.0)
    total = tl.load(residual + offsets, mask=inside, other=0.0).to(tl.float32) + added
    tl.store(output + offsets, total.to(output.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seed", "first_position"])
def bias_dropout_residual_backward_kernel(
    grad, grad_branch, partials, num_rows, hidden, local, keep_scale, seed: tl.int64, first_position, length,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, STAGES: tl.constexpr, DROP_BELOW: tl.constexpr,
):  # fmt: skip
    """Differentiate every num_programs-th tile of one column of tiles per program.

    Reads grad [rows, h]; writes this program's part of partials, fp32 [1, runs, h], and where anything is dropped
    grad_branch [rows, h].
    """
    run, runs = tl.program_id(0), tl.num_programs(0)
    columns = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], dtype=tl.float32)
    for tile in tl.range(run, tl.cdiv(num_rows, BLOCK_ROWS), runs, num_stages=STAGES):
        rows = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        inside = (rows < num_rows)[:, None] & (columns < hidden)[None, :]
        offsets = rows.to(tl.int64)[:, None] * hidden + columns[None, :]
        values = tl.load(grad + offsets, mask=inside, other=0.0).to(tl.float32)
        if DROP_BELOW > 0:
            keys = hidden_row_keys(seed, rows, local, first_position, length)
            kept = keep(keys[:, None], column_keys(columns)[None, :], DROP_BELOW)
            values = tl.where(kept, values * keep_scale, 0.0)
            tl.store(grad_branch + offsets, values.to(grad_branch.dtype.element_ty), mask=inside)
        total += values
    tl.store(partials + run.to(tl.int64) * hidden + columns, tl.sum(total, axis=0), mask=columns < hidden)


def dropout_arguments(dropout: HiddenDropout | None, local: int) -> tuple[tuple[float, int, int, int], int]:
    """Return keep_scale, seed as int64, first_position and length, as kernels take them, and DROP_BELOW.

    Raises ValueError where the `local` positions held here reach beyond dropout.length.
    """
    if dropout is None:
        return (1.0, 0, 0, local), 0
    check_positions(dropout, local)
    kept = 1.0 - dropout.probability
    arguments = (1.0 / kept, signed(dropout.seed), dropout.first_position, dropout.length)
    return arguments, drop_threshold(dropout.probability)


class _BiasDropoutResidual(torch.autograd.Function):
    """Autograd for the kernels above; branch and residual are [b, s, h] and contiguous."""

    @staticmethod
    def forward(ctx, branch: Tensor, bias: Tensor, residual: Tensor, dropout: HiddenDropout | None) -> Tensor:
        batch, local, hidden = branch.shape
        rows, columns = batch * local, tile_columns(hidden)
        arguments, drop_below = dropout_arguments(dropout, local)
        output = torch.empty_like(residual)
        bias_dropout_residual_forward_kernel[(triton.cdiv(rows, FORWARD_ROWS), triton.cdiv(hidden, columns))](
            branch, bias, residual, output, rows, hidden, local, *arguments,
            BLOCK_ROWS=FORWARD_ROWS, BLOCK_COLUMNS=columns, DROP_BELOW=drop_below, num_warps=_FORWARD_WARPS,
        )  # fmt: skip
        ctx.dropout, ctx.branch_dtype, ctx.bias_dtype = dropout, branch.dtype, bias.dtype
        return output

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        batch, local, hidden = grad.shape
        rows, columns = batch * local, tile_columns(hidden)
        arguments, drop_below = dropout_arguments(ctx.dropout, local)
        grad = grad.contiguous()
        grad_branch = torch.empty_like(grad, dtype=ctx.branch_dtype) if drop_below else grad
        runs = count_runs(rows, hidden)
        partials = torch.empty(1, runs, hidden, dtype=torch.float32, device=grad.device)
        bias_dropout_residual_backward_kernel[(runs, triton.cdiv(hidden, columns))](
            grad, grad_branch, partials, rows, hidden, local, *arguments,
            BLOCK_ROWS=TILE_ROWS, BLOCK_COLUMNS=columns, STAGES=TILE_STAGES, DROP_BELOW=drop_below,
            num_warps=TILE_WARPS,
        )  # fmt: skip
        return grad_branch, *sum_partials(partials, ctx.bias_dtype), grad, None


def check_branch(branch: Tensor, bias: Tensor, residual: Tensor) -> None:
    """Raise ValueError unless branch and residual are [b, s, h], not empty, and bias is [h]."""
    if branch.dim() != 3 or residual.shape != branch.shape or bias.shape != branch.shape[-1:] or not branch.numel():
        raise ValueError(
            f"branch {tuple(branch.shape)} and residual {tuple(residual.shape)} must be [b, s, h], bias "
            f"{tuple(bias.shape)} [h], and none empty"
        )


def bias_dropout_residual(branch: Tensor, bias: Tensor, residual: Tensor, dropout: HiddenDropout | None) -> Tensor:
    """`reference.bias_dropout_residual` in Triton, differentiable in branch, bias and residual.

    Without dropout, backward gives one tensor as the gradient of both branch and residual: the gradient it was given.

    Shapes: branch and residual [b, s, h] and bias [h], each bf16, fp16 or fp32; returns [b, s, h] in residual's dtype.
    Raises ValueError where shapes differ or are empty, or the positions reach beyond dropout.length.
    """
    check_branch(branch, bias, residual)
    return _BiasDropoutResidual.apply(branch.contiguous(), bias.contiguous(), residual.contiguous(), dropout)
