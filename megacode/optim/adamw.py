"""AdamW (Loshchilov and Hutter 2019) on fp32 masters, each replica updating its own shard of every bucket (ZeRO-1).

begin:   gradients are zero, and are reduced from now on as backward completes them; `arrivals` tells when the new
         weights of which part of the model are there
reduce:  what is not yet reduced: tied gradients, then copied gradients over tp, then each bucket over dp
step:    clipping by the global norm, update of the owned masters, new weights on their way to all replicas

`optim.zero_stage = 0` keeps all of the state on every replica, which then reduces and updates everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from megacode.config.schema import OptimConfig
from megacode.kernels.dispatch import AdamWHyper, Implementations
from megacode.layers.spec import Copied, ParamSpec
from megacode.optim.arrivals import WeightArrivals
from megacode.optim.flat import FlatLayout, Segment, overlap, without
from megacode.optim.gradients import GradientBuffer, NamedParameters
from megacode.optim.loss_scale import Scaling
from megacode.optim.reduction import BucketReduction
from megacode.optim.tied import TiedWeight
from megacode.parallel.collectives import all_sum_, start_all_gather_flat_
from megacode.parallel.groups import Groups

_BYTES_OF_FP32 = 4


@dataclass(frozen=True)
class Held:
    """Consecutive `elements` of the flat order that belong to `spec`, from element `start` of its local part on."""

    spec: ParamSpec
    start: int
    elements: range


class ShardedAdamW:
    """The optimizer of one rank. Decay acts on the specs that ask for it: matrices and embeddings.

    layout:     the flat order of this rank's parameters, tied copies left out.
    owned:      the elements of it that this replica updates, by bucket.
    state:      fp32 tensors over `owned`, one range after the other: master, exp_avg, exp_avg_sq.
    gradients:  what backward accumulates into; after `reduce`, the sum over all ranks in `owned`.
    arrivals:   which of the new weights are not there yet; nothing may read those before it has waited for them.
    scaling:    what the loss has to be multiplied by (1 but for fp16), and how many steps were skipped.
    """

    def __init__(
        self, parameters: NamedParameters, groups: Groups, config: OptimConfig, kernels: Implementations
    ) -> None:
        self._config, self._groups, self._kernels, dp = config, groups, kernels, groups.dp
        updated = [(spec, parameter) for spec, parameter in parameters if spec.tied_to is None]
        shapes = [(spec, tuple(parameter.shape)) for spec, parameter in updated]
        self.layout = FlatLayout.of(shapes, dp.size, int(config.bucket_megabytes * 1e6) // _BYTES_OF_FP32)
        self._shards = self.layout.shards(dp.index, dp.size)
        self._sharded = config.zero_stage == 1
        self.owned = self._shards if self._sharded else tuple(bucket.elements for bucket in self.layout.buckets)
        self._places = [0, *accumulate(len(part) for part in self.owned)]
        self.gradients = GradientBuffer(self.layout, parameters)
        self._weights = _flatten(self.layout, updated)
        dtype = self._weights.dtype
        wire = dtype if config.reduce_dtype == "weights" else torch.float32
        self._reduction = BucketReduction(self.layout, self.gradients, updated, groups, self._sharded, wire)
        master = self._masters()
        self.state: Mapping[str, Tensor] = {
            "master": master,
            "exp_avg": torch.zeros_like(master),
            "exp_avg_sq": torch.zeros_like(master),
        }
        self._tied = [
            TiedWeight(self.gradients.by_name[spec.name], parameter.data, groups.tied)
            for spec, parameter in parameters
            if groups.tied.size > 1 and spec.is_shared
        ]
        self.arrivals = WeightArrivals(self.layout, parameters, self._tied)
        self._loss_scale = config.loss_scale if dtype == torch.float16 else None
        self.scaling = Scaling(self._loss_scale.initial if self._loss_scale else 1.0)

    def _masters(self) -> Tensor:
        """The owned weights in fp32; the very weights, where those are fp32 and owned as a whole."""
        if self._weights.dtype == torch.float32 and sum(map(len, self.owned)) == self.layout.total:
            return self._weights
        return torch.cat([self._weights[part.start : part.stop].float() for part in self.owned])

    def begin(self, micro_batches: int) -> None:
        """A step begins, of so many backward passes: forget the last step's gradients."""
        self.arrivals.begin()
        self.gradients.zero()
        self._reduction.begin(micro_batches)

    def note(self, parameter: Tensor) -> None:
        """Something was added to the gradient of `parameter` outside of autograd; to be called after each addition."""
        self._reduction.note(parameter)

    def reduce(self) -> None:
        """Sum the accumulated gradients over all ranks that hold a part of them, as far as that is not done yet."""
        for tied in self._tied:
            tied.sum_gradients()
        self._reduction.finish()

    def gradient_norm(self) -> float:
        """The norm of the reduced gradient of the whole model, every logical element counted once, loss scale apart.

        Short rows are summed in fp32 and their sums in fp64, so that no layout's order of summation shows.
        """
        squares = torch.zeros(1, dtype=torch.float64, device=self._weights.device)
        for part in self._counted():
            squares += self._kernels.sum_of_squares(self.gradients.flat[part.start : part.stop])
        return float(all_sum_(squares, self._groups.world).sqrt()) / self.scaling.scale

    def step(self, step: int, learning_rate: float, norm: float) -> bool:
        """Update the masters with the reduced gradient, clipped by its global `norm`, and publish the new weights.

        `step` counts from 1. A norm that is not finite changes nothing but the loss scale. Returns whether it updated.
        """
        is_finite, scaling = math.isfinite(norm), self.scaling
        self.scaling = scaling.after(is_finite, self._loss_scale)
        if not is_finite:
            return False
        self.wait_weights()
        divisor = scaling.scale / min(1.0, self._config.clip / (norm + 1e-6))
        scale = None if divisor == 1.0 else torch.tensor(divisor, device=self._weights.device)
        for number in reversed(range(len(self.owned))):
            self._update(number, step - scaling.skipped_steps, learning_rate, scale)
            self._start_gathering(number)
        self.arrivals.ask_for_copies()
        return True

    def wait_weights(self) -> None:
        """Wait until all weights are those of the last step."""
        self.arrivals.all()

    def publish(self) -> None:
        """Cast the masters to this rank's weights, and gather those of the other replicas."""
        for number in reversed(range(len(self.owned))):
            part = self.owned[number]
            self._weights[part.start : part.stop].copy_(self.in_shard(self.state["master"], part))
            self._start_gathering(number)
        self.arrivals.ask_for_copies()
        self.wait_weights()

    def _start_gathering(self, number: int) -> None:
        """Begin to gather one bucket's new weights from the replicas that own its shards."""
        if self._sharded:
            bucket = self.layout.buckets[number].elements
            whole = self._weights[bucket.start : bucket.stop]
            self.arrivals.expect(number, start_all_gather_flat_(whole, self._groups.dp))

    def _update(self, number: int, update: int, learning_rate: float, divisor: Tensor | None) -> None:
        """Update number `update`, from 1, of one bucket's owned masters and weights; the gradient is divided first."""
        part, decayed, config = self.owned[number], self.layout.buckets[number].decayed, self._config
        for parts, decay in (([overlap(part, decayed)], config.weight_decay), (without(part, decayed), 0.0)):
            hyper = AdamWHyper(learning_rate, config.beta1, config.beta2, config.eps, decay)
            for elements in parts:
                if elements:
                    self._update_elements(elements, hyper, update, divisor)

    def _update_elements(self, elements: range, hyper: AdamWHyper, update: int, divisor: Tensor | None) -> None:
        master, exp_avg, exp_avg_sq = (
            self.in_shard(self.state[name], elements) for name in ("master", "exp_avg", "exp_avg_sq")
        )
        gradient = self.gradients.flat[elements.start : elements.stop]
        weights = None if self.state["master"] is self._weights else self._weights[elements.start : elements.stop]
        self._kernels.adamw(master, exp_avg, exp_avg_sq, gradient, weights, hyper, update, divisor)

    def held(self) -> Iterator[Held]:
        """The parts of logical tensors that this rank answers for; over all ranks, every element exactly once.

        Of copied parameters that is the first tensor-parallel rank's copy; of replicated state, this replica's shard.
        """
        for segment, elements in self.layout.within(self._shards):
            if not (isinstance(segment.spec.placement, Copied) and self._groups.tp.index > 0):
                yield Held(segment.spec, elements.start - segment.start, elements)

    def _counted(self) -> list[range]:
        """The elements that `held` tells of, and padding, in as few ranges as there are."""
        return [
            part
            for bucket, shard in zip(self.layout.buckets, self._shards, strict=True)
            for part in (without(shard, bucket.copied) if self._groups.tp.index > 0 else [shard])
        ]

    def owned_segments(self) -> Iterator[tuple[Segment, range]]:
        """The parameters that reach into `owned`, each with its elements there."""
        return self.layout.within(self.owned)

    def reduced(self) -> Tensor:
        """A copy of the reduced gradient, fp32 over `owned` as the state is; torch's AdamW leaves it clipped."""
        return torch.cat([self.gradients.flat[part.start : part.stop] for part in self.owned])

    def in_shard(self, tensor: Tensor, elements: range) -> Tensor:
        """The given elements of one bucket, which this replica owns, as a view of a tensor over `owned`."""
        for part, place in zip(self.owned, self._places, strict=False):
            if elements.start in part:
                start = place + elements.start - part.start
                return tensor[start : start + len(elements)]
        raise ValueError(f"elements {elements} of the flat order are not owned here")


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
