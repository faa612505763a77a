"""New weights on their way: each part of the model waits only for its own, so that the rest travels meanwhile.

The replicas' shards are gathered bucket by bucket in the order in which a forward pass needs them: the flat order
backwards, the embedding first. Whoever reads a weight waits for its bucket: `before` makes the hook that a module does
it with. Everything else, such as a checkpoint or a validation, waits for `all`.

Why that cannot hang, on sockets too, where a message moves only while its sender and its receiver wait
(parallel/sockets.py): all ranks of a stage run the same actions in the same order, so the waits stand in that order
too, between the same other collectives. Of ranks that wait for each other, the one that is furthest behind waits for
ranks that are at the same wait or past it, and a rank passes a wait only when all that it had to send has left.

The copy of a tied embedding comes from the first stage, once its bucket is there. It is asked for at the start of a
step at both ends; did the first stage wait for it in its first forward pass, the last one, which waits for that
pass, could not be there to take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import nn

from megacode.optim.flat import FlatLayout
from megacode.optim.gradients import NamedParameters
from megacode.optim.tied import TiedWeight
from megacode.parallel.collectives import Arriving

Hook = Callable[[nn.Module, object], None]


class WeightArrivals:
    """What of this rank's weights is not there yet."""

    def __init__(self, layout: FlatLayout, parameters: NamedParameters, tied: Sequence[TiedWeight]) -> None:
        bucket_of = {
            segment.spec.name: number for number, bucket in enumerate(layout.buckets) for segment in bucket.segments
        }
        self._bucket_of = {parameter: bucket_of[spec.name] for spec, parameter in parameters if spec.tied_to is None}
        self._shared = sorted(
            {bucket_of[spec.name] for spec, _ in parameters if spec.is_shared and spec.tied_to is None}
        )
        self._tied, self._asked_for = tied, True
        self._gathers: dict[int, Arriving] = {}
        self._copies: list[Arriving] = []

    @property
    def num_outstanding(self) -> int:
        """Buckets that nobody has waited for yet."""
        return len(self._gathers)

    def expect(self, bucket: int, gather: Arriving) -> None:
        """The new weights of a bucket are on their way. Buckets must be told of in the same order on all replicas."""
        self._gathers[bucket] = gather

    def ask_for_copies(self) -> None:
        """The owner of a tied weight has a new value."""
        self._asked_for = False

    def begin(self) -> None:
        """A step begins: send the tied weight on its way. Both of its stages must call it before they compute."""
        if self._tied and not self._asked_for:
            self._wait_for_buckets(self._shared)
            self._copies += [tied.start_copy_from_owner() for tied in self._tied]
        self._asked_for = True

    def all(self) -> None:
        """Wait for everything."""
        self.begin()
        self._wait_for_buckets(list(self._gathers))
        self._wait_for_copies()

    def before(self, parameters: Iterable[nn.Parameter]) -> Hook:
        """A forward pre-hook for the module whose call comes before any of `parameters` is read: it waits for them."""
        wanted = list(parameters)
        buckets = sorted({self._bucket_of[one] for one in wanted if one in self._bucket_of}, reverse=True)
        has_a_copy = any(one not in self._bucket_of for one in wanted)

        def wait(module: nn.Module, inputs: object) -> None:
            if self._gathers:
                self._wait_for_buckets(buckets)
            if has_a_copy and self._copies:
                self._wait_for_copies()

        return wait

    def _wait_for_buckets(self, buckets: Iterable[int]) -> None:
        for number in buckets:
            if number in self._gathers:
                self._gathers.pop(number).wait()

    def _wait_for_copies(self) -> None:
        for copy in self._copies:
            copy.wait()
        self._copies.clear()
