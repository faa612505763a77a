"""Cross entropy over a part of the vocabulary in Triton: each kernel reads the logits once, and none are kept in fp32.

    sums:      one program a row finds the row's log-sum-exp in one pass, with a running maximum
    gradient:  exp(logit - log-sum-exp of the whole vocabulary) - [target], written over the logits

Bytes: 2 a bf16 logit for the first, 4 for the second, and a few a row. FLOPs: about 8 and 3 a logit, one exponential
each.

Meaning, shapes and source: `reference.vocab_cross_entropy`. Sums are fp32; logits may be bf16, fp16 or fp32.

Limits: where w or the row stride is not a multiple of 8, bf16 logits are moved one by one; right, but slower. Pad the
vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # columns at a time: 32 B a thread of bf16
_WARPS = 8


@triton.jit
def cross_entropy_sums_kernel(logits, targets, log_sums, target_logits, width, row_stride, BLOCK: tl.constexpr):
    """Sum up one row per program.

    Reads logits [rows, w] with rows `row_stride` elements apart, targets int64 [rows]; writes log_sums and
    target_logits fp32 [rows].
    """
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * row_stride
    # Each lane keeps a maximum and a sum of its own; finite, so that -inf less the maximum is not NaN.
    maxima = tl.full([BLOCK], -3.0e38, dtype=tl.float32)
    sums = tl.zeros([BLOCK], dtype=tl.float32)
    for first in range(0, width, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        x = tl.load(start + columns, mask=columns < width, other=float("-inf")).to(tl.float32)
        # Of the two terms exp(x - new maximum) and sum * exp(old maximum - new maximum), one exponential is 1.
        above = x - maxima
        smaller = tl.exp(-tl.abs(above))
        sums = tl.where(above > 0.0, sums * smaller + 1.0, sums + smaller)
        maxima = tl.maximum(maxima, x)
    maximum = tl.max(maxima, axis=0)
    total = tl.sum(sums * tl.exp(maxima - maximum), axis=0)
    tl.store(log_sums + row, maximum + tl.log(total))
    target = tl.load(targets + row)
    is_own = (target >= 0) & (target < width)
    tl.store(target_logits + row, tl.load(start + target, mask=is_own, other=0.0).to(tl.float32))


@triton.jit
def cross_entropy_gradient_kernel(logits, targets, whole_log_sums, factors, width, row_stride, BLOCK: tl.constexpr):
    """Differentiate one block of columns of one row per program.

    Reads logits [rows, w] with rows `row_stride` elements apart, targets int64 [rows], whole_log_sums and factors fp32
    [rows]; writes the gradient over the logits.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    place = logits + row * row_stride + columns
    x = tl.load(place, mask=inside, other=float("-inf")).to(tl.float32)
    probabilities = tl.exp(x - tl.load(whole_log_sums + row))
    is_target = columns == tl.load(targets + row)
    gradient = (probabilities - is_target.to(tl.float32)) * tl.load(factors + row)
    tl.store(place, gradient.to(logits.dtype.element_ty), mask=inside)


class _VocabCrossEntropy:
    """Keeps the logits and the targets, which the gradient is made of."""

    def __init__(self, logits: Tensor, local_targets: Tensor) -> None:
        self._logits, self._targets = logits, local_targets.contiguous()
        rows, width = logits.shape
        self._block = min(triton.next_power_of_2(width), BLOCK)
        self.log_sums = torch.empty(rows, dtype=torch.float32, device=logits.device)
        self.target_logits = torch.empty_like(self.log_sums)
        cross_entropy_sums_kernel[(rows,)](
            logits, self._targets, self.log_sums, self.target_logits, width, logits.stride(0),
            BLOCK=self._block, num_warps=_WARPS,
        )  # fmt: skip

    def write_gradient(self, whole_log_sums: Tensor, factors: Tensor) -> Tensor:
        rows, width = self._logits.shape
        cross_entropy_gradient_kernel[(rows, triton.cdiv(width, self._block))](
            self._logits, self._targets, whole_log_sums.contiguous(), factors.contiguous(), width,
            self._logits.stride(0), BLOCK=self._block, num_warps=_WARPS,
        )  # fmt: skip
        return self._logits


def vocab_cross_entropy(logits: Tensor, local_targets: Tensor) -> _VocabCrossEntropy:
    """`reference.vocab_cross_entropy` in Triton; keeps no more than the logits, which the gradient is written over.

    Shapes: logits [rows, w] bf16, fp16 or fp32, elements of a row side by side, any row stride; local_targets int64
    [rows]. Raises ValueError where these differ.
    """
    if logits.dim() != 2 or logits.numel() == 0 or (logits.shape[1] > 1 and logits.stride(1) != 1):
        raise ValueError(
            f"logits must be [rows, w] and not empty, each row's elements side by side, got shape "
            f"{tuple(logits.shape)} and strides {logits.stride()}"
        )
    if local_targets.shape != logits.shape[:1] or local_targets.dtype != torch.int64:
        raise ValueError(
            f"local_targets must be int64 [{len(logits)}], got {local_targets.dtype} {tuple(local_targets.shape)}"
        )
    return _VocabCrossEntropy(logits, local_targets)
