"""AdamW (Loshchilov and Hutter 2019) on fp32 masters, each replica updating its own shard of the flat order (ZeRO-1).

reduce:  tied gradients, then copied gradients over tp, then the whole over dp, leaving each replica its shard
step:    global norm, clipping, update of the shard's masters, new weights gathered from all replicas
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from megacode.config.schema import OptimConfig
from megacode.layers.spec import Copied, ParamSpec
from megacode.optim.flat import FlatLayout, overlap
from megacode.optim.gradients import GradientBuffer, NamedParameters
from megacode.optim.tied import TiedWeight
from megacode.parallel.collectives import all_gather_flat_, all_sum_, reduce_scatter_flat
from megacode.parallel.groups import Groups


@dataclass(frozen=True)
class Held:
    """Consecutive `elements` of the flat order that belong to `spec`, from element `start` of its local part on."""

    spec: ParamSpec
    start: int
    elements: range


class ShardedAdamW:
    """The optimizer of one rank. Decay acts on the specs that ask for it: matrices and embeddings.

    layout:     the flat order of this rank's parameters, tied copies left out.
    owned:      the elements of it that this replica updates.
    state:      fp32 tensors over `owned`: master, exp_avg, exp_avg_sq.
    reduced:    the gradient of `owned` after `reduce`, fp32; `step` scales it where it clips.
    gradients:  what backward accumulates into.
    """

    def __init__(self, parameters: NamedParameters, groups: Groups, config: OptimConfig) -> None:
        self._config, self._groups = config, groups
        updated = [(spec, parameter) for spec, parameter in parameters if spec.tied_to is None]
        self.layout = FlatLayout.of([(spec, tuple(p.shape)) for spec, p in updated], groups.dp.size)
        self.owned = self.layout.shard(groups.dp.index, groups.dp.size)
        self.gradients = GradientBuffer(self.layout, parameters)
        self._weights = _flatten(self.layout, updated)
        master = self._weights[self.owned.start : self.owned.stop].float().clone()
        self.state: Mapping[str, Tensor] = {
            "master": master,
            "exp_avg": torch.zeros_like(master),
            "exp_avg_sq": torch.zeros_like(master),
        }
        self.reduced = torch.zeros_like(master)
        self._tied = [
            TiedWeight(self.gradients.by_name[spec.name], parameter.data, groups.tied)
            for spec, parameter in parameters
            if groups.tied.size > 1 and spec.is_shared
        ]

    def reduce(self) -> None:
        """Sum the accumulated gradients over all ranks that hold a part of them, and start anew."""
        for tied in self._tied:
            tied.sum_gradients()
        copied = self.layout.copied
        all_sum_(self.gradients.flat[copied.start : copied.stop], self._groups.tp)
        self.reduced.copy_(reduce_scatter_flat(self.gradients.flat, self._groups.dp))
        self.gradients.zero()

    def gradient_norm(self) -> float:
        """The norm of the reduced gradient of the whole model, every logical element counted once."""
        squares = torch.zeros(1, dtype=torch.float64, device=self.reduced.device)
        for held in self.held():
            squares += torch.linalg.vector_norm(self.in_shard(self.reduced, held.elements), dtype=torch.float64) ** 2
        return float(all_sum_(squares, self._groups.world).sqrt())

    def step(self, step: int, learning_rate: float, norm: float) -> None:
        """Clip the reduced gradient by its global `norm`, update the masters and publish the new weights.

        `step` counts from 1.
        """
        self.reduced.mul_(min(1.0, self._config.clip / (norm + 1e-6)))
        decayed = overlap(self.owned, self.layout.decayed)
        before, after = range(self.owned.start, decayed.start), range(decayed.stop, self.owned.stop)
        if not decayed:
            before, after = self.owned, range(0)
        for part, decay in ((before, 0.0), (decayed, self._config.weight_decay), (after, 0.0)):
            if part:
                self._update(part, step, learning_rate, decay)
        self.publish()

    def publish(self) -> None:
        """Cast the masters to this rank's weights, and gather those of the other replicas."""
        self._weights[self.owned.start : self.owned.stop].copy_(self.state["master"])
        all_gather_flat_(self._weights, self._groups.dp)
        for tied in self._tied:
            tied.copy_from_owner()

    def _update(self, part: range, step: int, learning_rate: float, decay: float) -> None:
        tensors = {name: [self.in_shard(tensor, part)] for name, tensor in self.state.items()}
        adamw(
            tensors["master"],
            [self.in_shard(self.reduced, part)],
            tensors["exp_avg"],
            tensors["exp_avg_sq"],
            [],
            [torch.tensor(float(step - 1), device=self.reduced.device)],
            fused=True,
            amsgrad=False,
            beta1=self._config.beta1,
            beta2=self._config.beta2,
            lr=learning_rate,
            weight_decay=decay,
            eps=self._config.eps,
            maximize=False,
        )

    def held(self) -> Iterator[Held]:
        """The parts of logical tensors that this rank answers for; over all ranks, every element exactly once.

        Of copied parameters that is the first tensor-parallel rank's copy.
        """
        for segment, elements in self.layout.within(self.owned):
            if not (isinstance(segment.spec.placement, Copied) and self._groups.tp.index > 0):
                yield Held(segment.spec, elements.start - segment.start, elements)

    def in_shard(self, tensor: Tensor, elements: range) -> Tensor:
        """The given elements of the flat order, which this replica owns, as a view of a tensor over `owned`."""
        return tensor[elements.start - self.owned.start : elements.stop - self.owned.start]


def _flatten(layout: FlatLayout, parameters: NamedParameters) -> Tensor:
    """Move the parameters into one flat tensor, of which they become views."""
    by_name = {spec.name: parameter for spec, parameter in parameters}
    first = parameters[0][1]
    flat = torch.zeros(layout.total, dtype=first.dtype, device=first.device)
    for segment in layout.segments:
        view = flat[segment.start : segment.stop].view(segment.shape)
        parameter = by_name[segment.spec.name]
        view.copy_(parameter.data)
        parameter.data = view
    return flat
