"""Rotary position embedding in Triton, in place: each head is read once and written once over itself.

A program holds the sines and cosines of a few positions and turns all heads there, so they are computed once per
position and not once per head. Queries and keys may be views of what a linear layer gave, with any strides over b, s
and n: nothing is copied. Backward turns the gradient by the negative angles into new memory, because a gradient may
belong to others too.

Sine and cosine are our own, to 1.2e-7 for angles up to 100,000 (positions, since the largest frequency is 1): the
angle less a multiple of pi/2, which is subtracted in four parts so that nothing is rounded, then a polynomial. CUDA's
`sinf` brings a table in local memory for larger ones, and its fast forms lose five digits at position 16,384.

Meaning, shapes and source: `reference.rotary`. Angles and products are fp32; x may be bf16, fp16 or fp32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megacode.kernels.reference import rotary_frequencies

_TILE = 4096  # elements of half heads that a program turns at once
_MOST_HEADS = 8
_WARPS = 4
_TWO_OVER_PI = tl.constexpr(0.6366197723675814)
# pi/2 in parts of 8 bits, whose products with whole numbers below 2^16 are exact, and what is left.
_HALF_PI_1 = tl.constexpr(1.5703125)
_HALF_PI_2 = tl.constexpr(0.0004825592041015625)
_HALF_PI_3 = tl.constexpr(1.2665987014770508e-06)
_HALF_PI_4 = tl.constexpr(9.92093629470503e-10)


@triton.jit
def sine_and_cosine(angle):
    """Return sine and cosine of fp32 angles in radians, 0 to 100,000, of any shape."""
    quarter = tl.floor(angle * _TWO_OVER_PI + 0.5)
    rest = angle - quarter * _HALF_PI_1
    rest = rest - quarter * _HALF_PI_2
    rest = rest - quarter * _HALF_PI_3
    rest = rest - quarter * _HALF_PI_4
    # Polynomials of least error over [-pi/4, pi/4], fitted for this file: 1.8e-9 and 1e-10.
    square = rest * rest
    sine = rest + rest * square * (
        -0.16666650772094727 + square * (0.008331973105669022 + square * -0.0001949494908330962)
    )
    cosine = 1.0 - 0.5 * square
    cosine += (
        square * square * (0.04166664555668831 + square * (-0.001388736185617745 + square * 2.4437729734927416e-05))
    )
    turns = quarter.to(tl.int32) & 3
    is_odd = (turns & 1) == 1
    turned_sine = tl.where(is_odd, cosine, sine)
    turned_cosine = tl.where(is_odd, sine, cosine)
    return (
        tl.where(turns >= 2, -turned_sine, turned_sine),
        tl.where((turns == 1) | (turns == 2), -turned_cosine, turned_cosine),
    )


@triton.jit(do_not_specialize=["first_position"])
def rotary_kernel(
    source, target, frequencies, source_batch, source_row, source_head, target_batch, target_row, target_head,
    length, num_heads, half, direction, first_position,
    BLOCK_ROWS: tl.constexpr, BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr,
):  # fmt: skip
    """Turn all heads at BLOCK_ROWS positions per program.

    Reads source [b, s, n, d] and frequencies fp32 [d/2]; writes target [b, s, n, d], which may be source. Strides are
    in elements over b, s and n; the last dim is contiguous. direction: 1.0, or -1.0 to turn back.
    """
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    lanes = tl.arange(0, BLOCK_HALF)
    frequency = tl.load(frequencies + lanes, mask=lanes < half, other=0.0)
    sine, cosine = sine_and_cosine((first_position + rows).to(tl.float32)[:, None] * frequency[None, :])
    sine, cosine = (sine * direction)[:, None, :], cosine[:, None, :]
    inside_rows = (rows < length)[:, None, None] & (lanes < half)[None, None, :]
    from_rows = source + batch * source_batch + rows.to(tl.int64)[:, None, None] * source_row + lanes[None, None, :]
    to_rows = target + batch * target_batch + rows.to(tl.int64)[:, None, None] * target_row + lanes[None, None, :]
    for first_head in range(0, num_heads, BLOCK_HEADS):
        heads = first_head + tl.arange(0, BLOCK_HEADS)[None, :, None]
        inside = inside_rows & (heads < num_heads)
        begin, to = from_rows + heads.to(tl.int64) * source_head, to_rows + heads.to(tl.int64) * target_head
        first = tl.load(begin, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(begin + half, mask=inside, other=0.0).to(tl.float32)
        tl.store(to, (first * cosine - second * sine).to(target.dtype.element_ty), mask=inside)
        tl.store(to + half, (second * cosine + first * sine).to(target.dtype.element_ty), mask=inside)


def tile_heads(heads: int) -> int:
    """Return how many heads a program turns at once, a power of two."""
    return min(triton.next_power_of_2(heads), _MOST_HEADS)


def tile_rows(length: int, heads: int, width: int) -> int:
    """Return how many positions a program turns, a power of two."""
    rows = _TILE // (triton.next_power_of_2(width // 2) * tile_heads(heads))
    return min(max(rows, 1), triton.next_power_of_2(length))


def _launch(source: Tensor, target: Tensor, frequencies: Tensor, first_position: int, direction: float) -> None:
    """Turn source [b, s, n, d] into target, which may be source; the last dims are contiguous."""
    batch, length, heads, width = source.shape
    block_rows = tile_rows(length, heads, width)
    rotary_kernel[(triton.cdiv(length, block_rows), batch)](
        source, target, frequencies, *source.stride()[:3], *target.stride()[:3],
        length, heads, width // 2, direction, first_position,
        BLOCK_ROWS=block_rows, BLOCK_HEADS=tile_heads(heads), BLOCK_HALF=triton.next_power_of_2(width // 2),
        num_warps=_WARPS,
    )  # fmt: skip


class _Rotary(torch.autograd.Function):
    """Autograd for the kernel above.

    Not by `mark_dirty`: autograd refuses that for a chunk of a tensor. The result is another tensor on x's memory
    instead, and x's version goes up, so that a backward pass which has saved x for itself raises an error. A view's
    version does not: it is that of the whole tensor, of which autograd would then refuse the other chunks too.
    """

    @staticmethod
    def forward(ctx, x: Tensor, frequencies: Tensor, first_position: int) -> Tensor:
        _launch(x, x, frequencies, first_position, 1.0)
        if not x._is_view():
            torch.autograd.graph.increment_version(x)
        ctx.save_for_backward(frequencies)
        ctx.first_position = first_position
        return x.detach()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (frequencies,) = ctx.saved_tensors
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        turned = torch.empty(grad.shape, dtype=grad.dtype, device=grad.device)
        _launch(grad, turned, frequencies, ctx.first_position, -1.0)
        return turned, None, None


def rotary(x: Tensor, theta: float, first_position: int = 0) -> Tensor:
    """`reference.rotary` in Triton, differentiable; x is overwritten, and the result lies in its memory.

    Nobody may need x itself any more: not the caller, and not the backward pass of what made x.

    Shapes: x [b, s, n, d] bf16, fp16 or fp32, d even and contiguous, any other strides that do not overlap; returns
    the same, so [b, s, n, d] with x's strides.
    Raises ValueError where x is empty, or its shape or strides are others.
    """
    if x.dim() != 4 or x.shape[-1] % 2 or x.numel() == 0:
        raise ValueError(f"x must be [b, s, n, d], not empty, with d even, got {tuple(x.shape)}")
    overlaps = any(stride == 0 for stride, count in zip(x.stride(), x.shape, strict=True) if count > 1)
    if x.stride(-1) != 1 or overlaps:
        raise ValueError(f"x is turned in place: its last dim must be contiguous and none repeated, got {x.stride()}")
    return _Rotary.apply(x, rotary_frequencies(x.shape[-1], theta, x.device), first_position)
