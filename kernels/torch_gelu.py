"""Bias and tanh GELU on a CPU, by torch's own operations over rows that stay in the cache.

torch's GELU spends its time in tanh. With K = 2 sqrt(2 / pi), v = K u (1 + c u^2) and c = 0.044715,

    gelu(u)  = u g,  g = sigmoid(v)            since (1 + tanh(v / 2)) / 2 = sigmoid(v)
    gelu'(u) = g + u g (1 - g) v'(u) = g (1 + q (1 - g)),  q = u v'(u) = K u (1 + 3 c u^2)

and a sigmoid is four times as fast. Once g is there the slope costs little, so forward makes it and keeps it in place
of u, and backward is one product. In bf16, [512, 2048] and one thread: 1.3 and 0.14 ms, where torch's take 1.4 and 1.3.
Where it is lean it keeps x, and makes the same slope in backward, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_K = 2.0 * math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715
_ELEMENTS_AT_ONCE = 1 << 18


def bias_gelu(x: Tensor, bias: Tensor, lean: bool = False) -> Tensor:
    """`reference.bias_gelu`: x [..., f], bias [f]. `lean`: it keeps x for backward, not a tensor of its own.

    On a GPU, where pieces would only be launches, it is torch's GELU, which keeps their sum.
    """
    if x.is_cuda:
        return functional.gelu(x + bias, approximate="tanh")
    activated: Tensor = (_LeanBiasGelu if lean else _BiasGelu).apply(x.flatten(0, -2), bias)  # type: ignore[no-untyped-call]
    return activated.view(x.shape)


def bias_gelu_again(x: Tensor, bias: Tensor) -> Tensor:
    """What `bias_gelu` gave, bit for bit, from the same x and bias; no gradient."""
    if x.is_cuda:
        return functional.gelu(x + bias, approximate="tanh")
    return _activated(x.flatten(0, -2), bias).view(x.shape)


class _BiasGelu(torch.autograd.Function):
    """x [rows, f], bias [f] -> [rows, f]; keeps the slope, in x's dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        out, slope = torch.empty_like(x), torch.empty_like(x)
        for rows, total, gate, square in _gates(x, bias):
            slope[rows] = _slope(total, gate, square)
            out[rows] = gate.mul_(total)
        ctx.save_for_backward(slope)
        ctx.bias_dtype = bias.dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        grad_x = grad * slope
        return grad_x, grad_x.sum(0, dtype=ctx.bias_dtype)


class _LeanBiasGelu(torch.autograd.Function):
    """x [rows, f], bias [f] -> [rows, f]; keeps x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, bias)
        return _activated(x, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, bias = ctx.saved_tensors
        slope = torch.empty_like(x)
        for rows, total, gate, square in _gates(x, bias):
            slope[rows] = _slope(total, gate, square)
        grad_x = grad * slope
        return grad_x, grad_x.sum(0, dtype=bias.dtype)


def _activated(x: Tensor, bias: Tensor) -> Tensor:
    out = torch.empty_like(x)
    for rows, total, gate, _ in _gates(x, bias):
        out[rows] = gate.mul_(total)
    return out


def _gates(x: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Some rows of x at a time: which, and u = x + bias, g and u^2 of them, in buffers, fp32 (fp64 stays fp64)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    height = min(len(x), max(1, _ELEMENTS_AT_ONCE // x.shape[1]))
    buffers = torch.empty(3, height, x.shape[1], dtype=wide, device=x.device)
    one = torch.ones((), dtype=wide, device=x.device)
    for start in range(0, len(x), height):
        rows = slice(start, min(start + height, len(x)))
        total, gate, square = buffers[:, : rows.stop - rows.start].unbind()
        total.copy_(x[rows]).add_(bias)
        torch.mul(total, total, out=square)
        torch.add(one, square, alpha=_CUBIC, out=gate).mul_(total).mul_(_K).sigmoid_()
        yield rows, total, gate, square


def _slope(total: Tensor, gate: Tensor, square: Tensor) -> Tensor:
    """g (1 + q (1 - g)), written over `square`."""
    q = square.mul_(3.0 * _CUBIC * _K).add_(_K).mul_(total)
    return q.addcmul_(q, gate, value=-1.0).add_(1.0).mul_(gate)
