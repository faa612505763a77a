"""What one rank stores: its share of each tensor, and the numbers of it, as they are or copied to host memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megacode.checkpoint.blocks import block_elements
from megacode.checkpoint.coverage import Stretch
from megacode.checkpoint.manifest import KINDS
from megacode.layers.spec import ParamSpec, Split
from megacode.optim.adamw import ShardedAdamW
from megacode.parallel.groups import Groups


@dataclass(frozen=True)
class Portion:
    """A stretch of the tensor `name` of global `shape`, which one rank stores; `block`: elements of a checksum."""

    name: str
    shape: tuple[int, ...]
    block: int
    stretch: Stretch

    @property
    def elements(self) -> int:
        """How many it is."""
        return self.stretch.stop - self.stretch.start


def stretch_of(spec: ParamSpec, groups: Groups, start: int, count: int) -> Stretch:
    """`count` elements, from `start` on, of this rank's part of a parameter."""
    place = spec.local_slice(groups.tp.size, groups.tp.index)
    return Stretch(tuple((side.start, side.stop) for side in place), start, start + count)


class OwnShare:
    """This rank's part of the optimizer's state, in an order that does not change.

    `portions`: of each kind of state the same; `kinds` in the order of the values.
    """

    kinds = KINDS

    def __init__(self, optimizer: ShardedAdamW, groups: Groups) -> None:
        self._optimizer = optimizer
        held = list(optimizer.held())
        self._elements = [one.elements for one in held]
        self.portions: Sequence[Portion] = [
            Portion(one.spec.name, one.spec.shape, _block(one.spec), stretch_of(one.spec, groups, one.start, count))
            for one in held
            for count in (len(one.elements),)
        ]

    def values(self) -> Iterator[Tensor]:
        """The numbers as they are now: views of the state, kind by kind."""
        state: Mapping[str, Tensor] = self._optimizer.state
        for kind in self.kinds:
            for elements in self._elements:
                yield self._optimizer.in_shard(state[kind], elements)


class HostCopy:
    """Host memory for a rank's share, made once and used for every save."""

    def __init__(self, share: OwnShare) -> None:
        self._share = share
        each = sum(portion.elements for portion in share.portions)
        on_gpu = any(value.is_cuda for value in share.values())
        # Filled, so that no save has to wait for the kernel to find the pages.
        self._memory = torch.zeros(each * len(share.kinds), dtype=torch.float32, pin_memory=on_gpu)
        sizes = [portion.elements for portion in share.portions] * len(share.kinds)
        self._places: Sequence[Tensor] = torch.split(self._memory, sizes) if sizes else ()
        self._on_gpu = on_gpu

    def take(self) -> None:
        """Copy the numbers as they are now; they may change when it returns."""
        for place, value in zip(self._places, self._share.values(), strict=True):
            place.copy_(value, non_blocking=True)
        if self._on_gpu:
            torch.cuda.current_stream().synchronize()

    def values(self) -> Iterator[Tensor]:
        """The numbers as they were when they were taken."""
        return iter(self._places)


def _block(spec: ParamSpec) -> int:
    return block_elements(spec.shape, spec.placement.dim if isinstance(spec.placement, Split) else None)
