"""The sum of gradients over ranks, bucket by bucket, each as soon as nothing more will be added to it this step.

A step's first run counts how often each parameter is told of (by autograd's hook, and by `note` for what a layer adds
itself); later steps know by that count when a parameter is complete. Buckets are reduced in their fixed order, so that
all replicas ask for the same sums in the same order; whatever is not complete by then is reduced at the end. So when a
bucket is reduced changes nothing but the time.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from megacode.optim.flat import Bucket, FlatLayout
from megacode.optim.gradients import GradientBuffer, NamedParameters
from megacode.parallel.collectives import Arriving, all_sum_, start_all_sum_, start_reduce_scatter_flat_
from megacode.parallel.groups import Groups


class BucketReduction:
    """Reduces one rank's gradients: copied ones over tp, then every bucket over dp.

    With `sharded`, a replica gets the sum of its shard of a bucket only. `wire` is the dtype that travels over dp.
    """

    def __init__(
        self,
        layout: FlatLayout,
        gradients: GradientBuffer,
        parameters: NamedParameters,
        groups: Groups,
        sharded: bool,
        wire: torch.dtype,
    ) -> None:
        self._layout, self._flat, self._groups = layout, gradients.flat, groups
        self._sharded, self._wire = sharded, wire
        by_name = {spec.name: parameter for spec, parameter in parameters}
        self._bucket_of: dict[nn.Parameter, int] = {
            by_name[segment.spec.name]: number
            for number, bucket in enumerate(layout.buckets)
            for segment in bucket.segments
        }
        # What the first stage's embedding gets from the last stage is known at the end only.
        self._at_the_end = {
            number
            for number, bucket in enumerate(layout.buckets)
            if groups.tied.size > 1 and any(segment.spec.is_shared for segment in bucket.segments)
        }
        self._told: Counter[nn.Parameter] = Counter()
        self._expected: Counter[nn.Parameter] = Counter()
        self._expected_of = 0
        self._micro_batches = 0
        self._missing: list[int] = []
        self._started: list[Arriving] = []
        if groups.dp.size > 1:
            for parameter in self._bucket_of:
                parameter.register_post_accumulate_grad_hook(self.note)

    @property
    def num_started(self) -> int:
        """Buckets whose reduction has begun this step."""
        return len(self._started)

    def begin(self, micro_batches: int) -> None:
        """A step of so many micro-batches begins; nothing has been added yet."""
        if micro_batches != self._expected_of:
            self._expected.clear()
        self._told.clear()
        self._micro_batches = micro_batches
        self._missing = [len(bucket.segments) for bucket in self._layout.buckets]

    def note(self, parameter: Tensor) -> None:
        """Something was added to the gradient of `parameter`. Every addition must be followed by a call of this."""
        if not self._micro_batches or parameter not in self._bucket_of or self._groups.dp.size == 1:
            return
        assert isinstance(parameter, nn.Parameter), "the keys are parameters"
        number = self._bucket_of[parameter]
        assert number >= self.num_started, "a gradient came after its bucket was reduced"
        self._told[parameter] += 1
        if self._told[parameter] == self._expected[parameter]:
            self._missing[number] -= 1
            self._start_complete()

    def finish(self) -> None:
        """Reduce what is not yet reduced, and wait until all sums are there."""
        for bucket in self._layout.buckets[self.num_started :]:
            self._start(bucket)
        for arriving in self._started:
            arriving.wait()
        self._started.clear()
        if self._micro_batches and not self._expected:
            self._expected, self._expected_of = self._told.copy(), self._micro_batches
        self._micro_batches = 0

    def _start_complete(self) -> None:
        while (
            (number := self.num_started) < len(self._missing)
            and not self._missing[number]
            and number not in self._at_the_end
        ):
            self._start(self._layout.buckets[number])

    def _start(self, bucket: Bucket) -> None:
        if bucket.copied:
            all_sum_(self._flat[bucket.copied.start : bucket.copied.stop], self._groups.tp)
        whole = self._flat[bucket.elements.start : bucket.elements.stop]
        if self._wire == whole.dtype or self._groups.dp.size == 1:
            self._started.append(self._over_replicas(whole))
            return
        narrow = whole.to(self._wire)
        part = bucket.shard(self._groups.dp.index, self._groups.dp.size) if self._sharded else bucket.elements
        own, arriving = self._flat[part.start : part.stop], self._over_replicas(narrow)
        self._started.append(Arriving(lambda: own.copy_(arriving.wait())))

    def _over_replicas(self, whole: Tensor) -> Arriving:
        start = start_reduce_scatter_flat_ if self._sharded else start_all_sum_
        return start(whole, self._groups.dp)
