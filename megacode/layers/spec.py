"""What a parameter is, whatever the layout: the source for its initial value, norm, decay and files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megacode.kernels.dispatch import Implementations
from megacode.layers.weight_gradients import WeightGradients
from megacode.parallel.groups import Group
from megacode.parallel.initialize import normal


@dataclass(frozen=True)
class Split:
    """Cut along `dim` into equal parts, one per tensor-parallel rank."""

    dim: int


@dataclass(frozen=True)
class Copied:
    """The same on every tensor-parallel rank.

    Each rank sees only its part of the sequence or of the heads, so its gradient is partial and must be summed over
    the ranks. Leaving that sum out of multi-query keys and values once made StarCoder's loss explode.
    """


@dataclass(frozen=True)
class ParamSpec:
    """A logical parameter: global name and shape, placement, initial values (N(0, std^2), or a constant), decay.

    `is_shared`: the first and the last pipeline stage both hold it; `tied_to` names the owner in the spec of the copy.
    """

    name: str
    shape: tuple[int, ...]
    placement: Split | Copied
    std: float = 0.0
    constant: float = 0.0
    decay: bool = False
    tied_to: str | None = None
    is_shared: bool = False

    def local_slice(self, tp_size: int, tp_rank: int) -> tuple[slice, ...]:
        """Which part of the global tensor the given tensor-parallel rank holds."""
        whole = [slice(0, length) for length in self.shape]
        if isinstance(self.placement, Split):
            share = self.shape[self.placement.dim] // tp_size
            whole[self.placement.dim] = slice(tp_rank * share, (tp_rank + 1) * share)
        return tuple(whole)

    def local_shape(self, tp_size: int) -> tuple[int, ...]:
        """Shape of the part that one rank holds."""
        return tuple(part.stop - part.start for part in self.local_slice(tp_size, 0))

    def initial(self, seed: int) -> Tensor:
        """The whole initial tensor, fp32 on the CPU, the same in every layout."""
        if self.std:
            return normal(seed, self.tied_to or self.name, self.shape, self.std)
        return torch.full(self.shape, self.constant)


@dataclass(frozen=True)
class LayerContext:
    """What every layer is built with: tensor-parallel group, weights' dtype and device, seed, kernels, and where the
    gradients of weights are left."""

    tp: Group
    dtype: torch.dtype
    device: torch.device
    seed: int
    kernels: Implementations
    weight_gradients: WeightGradients


class ShardedModule(nn.Module):
    """A module whose parameters are made from specs, holding this rank's part of each."""

    def __init__(self, context: LayerContext) -> None:
        super().__init__()
        self.context = context
        self.specs: dict[str, ParamSpec] = {}

    def new_parameter(self, attribute: str, spec: ParamSpec) -> nn.Parameter:
        """Register `attribute` as this rank's part of `spec`, with its initial values."""
        context = self.context
        part = spec.initial(context.seed)[spec.local_slice(context.tp.size, context.tp.index)]
        parameter = nn.Parameter(part.to(device=context.device, dtype=context.dtype).contiguous())
        self.register_parameter(attribute, parameter)
        self.specs[attribute] = spec
        return parameter


def named_specs(module: nn.Module) -> Iterator[tuple[ParamSpec, nn.Parameter]]:
    """Every parameter under `module` with its spec, in a fixed order."""
    for child in module.modules():
        if isinstance(child, ShardedModule):
            for attribute, spec in child.specs.items():
                yield spec, child.get_parameter(attribute)
