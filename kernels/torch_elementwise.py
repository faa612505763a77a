"""The bias, dropout, GELU and rotary operations on torch's own kernels, with backward passes written by hand.

Written by hand because what autograd would record costs passes over memory: a copy of the gradient here, a saved sum
there. Shapes and meaning are those of `reference.py`; sums over rows accumulate in fp32, as torch's own do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from megacode.kernels import reference, torch_ops
from megacode.kernels.counter_random import HiddenDropout, hidden_keep_mask


class _BiasDropoutResidual(torch.autograd.Function):
    """residual + (branch + bias) * keep * scale; without a mask the gradient passes through untouched."""

    @staticmethod
    def forward(ctx: Any, branch: Tensor, bias: Tensor, residual: Tensor, keep: Tensor | None, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale, ctx.bias_dtype = scale, bias.dtype
        if keep is None:
            return torch.add(residual, branch).add_(bias)
        return torch.add(residual, torch.add(branch, bias).mul_(keep), alpha=scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        (keep,) = ctx.saved_tensors
        grad_branch = grad if keep is None else torch.mul(grad, keep).mul_(ctx.scale)
        return grad_branch, _sum_rows(grad_branch, ctx.bias_dtype), grad, None, None


class _Rotary(torch.autograd.Function):
    """Turn forward, and the gradient back by the same angles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None


def bias_dropout_residual(branch: Tensor, bias: Tensor, residual: Tensor, dropout: HiddenDropout | None) -> Tensor:
    """`reference.bias_dropout_residual`: branch and residual [b, s, h], bias [h].

    Without dropout, backward gives one tensor as the gradient of both branch and residual: the gradient it was given.
    """
    if dropout is None or dropout.probability == 0.0:
        return _BiasDropoutResidual.apply(branch, bias, residual, None, 1.0)
    keep = hidden_keep_mask(dropout, *branch.shape, branch.device)
    return _BiasDropoutResidual.apply(branch, bias, residual, keep, 1.0 / (1.0 - dropout.probability))


def add_layer_norm(
    branch: Tensor,
    branch_bias: Tensor,
    residual: Tensor,
    dropout: HiddenDropout | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    layer_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor] = torch_ops.layer_norm,
) -> tuple[Tensor, Tensor]:
    """`reference.add_layer_norm`: branch and residual [b, s, h], branch_bias, weight and bias [h].

    `layer_norm` (x [..., h], weight, bias, eps) may be another than torch's, such as NVIDIA apex's.
    """
    total = bias_dropout_residual(branch, branch_bias, residual, dropout)
    return total, layer_norm(total, weight, bias, eps)


def rotary(x: Tensor, theta: float, first_position: int = 0) -> Tensor:
    """`reference.rotary`: x [b, s, n, d], which is left as it was."""
    positions = torch.arange(first_position, first_position + x.shape[1], dtype=torch.float32, device=x.device)
    frequencies = reference.rotary_frequencies(x.shape[-1], theta, x.device)
    angles = (positions.unsqueeze(-1) * frequencies).unsqueeze(-2)  # [s, 1, d/2]
    return _Rotary.apply(x, angles.cos(), angles.sin())


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [b, s, n, d] by angles whose cosine and sine are fp32 [s, 1, d/2]; returns x's dtype, contiguous."""
    turned = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    first, second = x.to(torch.promote_types(x.dtype, cos.dtype)).chunk(2, dim=-1)
    to_first, to_second = turned.chunk(2, dim=-1)
    to_first.copy_((first * cos).sub_(second * sin))
    to_second.copy_((second * cos).add_(first * sin))
    return turned


def _sum_rows(grad: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum [..., h] over all rows, in fp32, and return [h] in `dtype`."""
    return grad.flatten(0, -2).sum(0, dtype=dtype)
