"""Selective recomputation (Korthikanti et al. 2022, section 5): what is cheap is computed again and not kept.

The layers inside the `with` block of `thrown_away` use a tensor as ever; but what they save of it for backward is a
note of how to have it again. The tensor itself goes with the block's last name for it. In backward the first layer that
asks computes it again, and when the last of them is done it goes for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


class _Again:
    """An output that can be had again, bit for bit; it lives as long as some layer's backward may ask for it."""

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        self._function, self._inputs = function, tuple(tensor.detach() for tensor in inputs)
        self._versions = [tensor._version for tensor in inputs]
        self._output: Tensor | None = None

    def output(self) -> Tensor:
        """The output, computed at the first call."""
        if self._output is None:
            unchanged = [tensor._version for tensor in self._inputs] == self._versions
            assert unchanged, "what a thrown away output was made of must not be changed in place"
            with torch.no_grad():
                self._output = self._function(*self._inputs)
        return self._output


@dataclass(frozen=True)
class _View:
    """The part of an output's memory that a layer saved, in elements."""

    of: _Again
    shape: torch.Size
    strides: tuple[int, ...]
    start: int


@contextmanager
def thrown_away(is_asked: bool, output: Tensor, function: Callable[..., Tensor], *inputs: Tensor) -> Iterator[None]:
    """Nothing inside the block keeps `output` for backward if `is_asked`: it is `function(*inputs)`, and is had again.

    `function` must compute the same bits; the inputs are held until then, so they should be kept anyway, as the
    backward of what made `output` keeps them. Views of it count as itself; what is computed from it does not.
    """
    if not is_asked or not torch.is_grad_enabled():
        yield
        return
    again, memory = _Again(function, inputs), output.untyped_storage().data_ptr()

    def pack(tensor: Tensor) -> Tensor | _View:
        if tensor.untyped_storage().data_ptr() != memory:
            return tensor
        return _View(again, tensor.shape, tensor.stride(), tensor.storage_offset())

    def unpack(saved: Tensor | _View) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        return saved.of.output().as_strided(saved.shape, saved.strides, saved.start)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
