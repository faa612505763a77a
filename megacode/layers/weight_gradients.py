"""Where linear layers leave the gradients of their weights: at once, or held back for a pass of its own.

Backward of a linear layer has two halves: the gradient of its input, which the layers before it wait for, and those of
its weight and bias, which nobody waits for until the optimizer. The second half is done while the first half's
messages travel, and zero-bubble schedules (Qi et al. 2023) fill their bubbles with it.

It adds into `parameter.grad`, of whatever dtype that is, with no gradient of its own in between where torch can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

_PRODUCT_ELEMENTS = 1 << 22


class WeightGradients:
    """One rank's; all its layers that add to gradients themselves do it here. Listeners hear of each addition."""

    def __init__(self) -> None:
        self._held_back: list[Callable[[], None]] | None = None
        self._listeners: list[Callable[[nn.Parameter], None]] = []

    def listen(self, listener: Callable[[nn.Parameter], None]) -> None:
        """Have `listener` called with every parameter after something was added to its gradient."""
        self._listeners.append(listener)

    @property
    def holds_back(self) -> bool:
        """Whether what comes now is kept for later."""
        return self._held_back is not None

    def do(self, second_half: Callable[[], None], *parameters: nn.Parameter) -> None:
        """Run `second_half`, which adds to the gradients of `parameters`, now, or keep it if it is to be held back."""
        if self._held_back is None:
            self._run(second_half, parameters)
        else:
            self._held_back.append(partial(self._run, second_half, parameters))

    @torch.no_grad()
    def _run(self, second_half: Callable[[], None], parameters: Sequence[nn.Parameter]) -> None:
        second_half()
        for listener in self._listeners:
            for parameter in parameters:
                listener(parameter)

    @contextmanager
    def held_back(self) -> Iterator[list[Callable[[], None]]]:
        """Collect in the list that it yields what comes while the block runs; the caller runs it, in that order."""
        assert self._held_back is None, "one pass at a time"
        self._held_back = held_back = []
        try:
            yield held_back
        finally:
            self._held_back = None


def add_product(parameter: nn.Parameter, left: Tensor, right: Tensor) -> None:
    """Add left^T right to the gradient: left [rows, out], right [rows, in], gradient [..., in] of out x in elements."""
    if parameter.grad is None:
        parameter.grad = (left.mT @ right).view(parameter.shape)
        return
    gradient = parameter.grad.view(-1, right.shape[-1])
    if gradient.dtype == left.dtype:
        gradient.addmm_(left.mT, right)
        return
    if gradient.is_cuda:  # the product is added in fp32 by itself, never rounded to the weights' dtype
        torch.addmm(gradient, left.mT, right, out_dtype=gradient.dtype, out=gradient)
        return
    height = max(1, _PRODUCT_ELEMENTS // right.shape[-1])  # a product apart, and its fp32 copy, stay small
    for rows, columns in zip(gradient.split(height), left.split(height, dim=1), strict=True):
        rows.add_(columns.mT @ right)


def add_row_sum(parameter: nn.Parameter, rows: Tensor) -> None:
    """Add the sum of `rows` [rows, out] to the gradient of `out` elements."""
    gradient = rows.sum(dim=0).view(parameter.shape)
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)


def add_rows(parameter: nn.Parameter, indices: Tensor, rows: Tensor) -> None:
    """Add `rows` [..., width] to the gradient's rows number `indices` [...]; the gradient is [count, width]."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    gradient = parameter.grad
    gradient.index_put_((indices,), rows.to(gradient.dtype), accumulate=True)
