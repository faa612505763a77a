"""Selective recomputation (Korthikanti et al. 2022, section 5): what is cheap is computed again and not kept.

The layers inside the `with` block of `thrown_away` use a function's output as ever; but what they save of it for
backward is a note of how to have it again. The output itself goes with the block. In backward the first layer that asks
computes it again, and when the last of them is done it goes for good.
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
def thrown_away(is_asked: bool, function: Callable[..., Tensor], *inputs: Tensor) -> Iterator[Tensor]:
    """Give `function(*inputs)`, which nothing inside the block keeps for backward if `is_asked`.

    `function` must compute the same again from the same inputs; these are held until then, so they should be kept
    anyway, as its own backward keeps them. Views of the output count as the output; what is computed from it does not.
    """
    output = function(*inputs)
    if not is_asked or not torch.is_grad_enabled():
        yield output
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
        yield output
