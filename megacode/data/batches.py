"""Which samples a data-parallel rank trains on at a step: arithmetic on (step, rank, index), the same for any dp.

Step t is samples [t * global_batch, (t + 1) * global_batch). Cut into micro-batches in that order, micro-batch j goes
to rank j % dp as its (j // dp)-th; so a change of dp moves micro-batches between ranks and changes no step.
"""

from __future__ import annotations

from typing import Protocol

from megacode.data.errors import DataError
from megacode.data.microbatch import MicroBatch, micro_batch_of
from megacode.data.stream.sample import Sample


class Samples(Protocol):
    """Anything that has a sample for every number from 0 on."""

    def sample(self, index: int) -> Sample:
        """Return sample number `index`, the same one at every call."""


class BatchPlan:
    """`stream` cut into global batches; `rows` sequences a micro-batch, `global_batch` sequences a step.

    `keeps_documents_apart`: micro-batches say where documents end, and attention stays inside them.
    """

    def __init__(
        self,
        stream: Samples,
        micro_batch: int,
        global_batch: int,
        dp: int,
        keeps_documents_apart: bool = False,
    ) -> None:
        """Raises DataError unless `global_batch` is a multiple of `micro_batch` x `dp`, all at least 1."""
        for name, value in (("micro_batch", micro_batch), ("global_batch", global_batch), ("dp", dp)):
            if value < 1:
                raise DataError(f"{name} must be at least 1; found {value}")
        each = micro_batch * dp
        if global_batch % each:
            nearest = [count * each for count in (global_batch // each, global_batch // each + 1) if count]
            raise DataError(
                f"global_batch = {global_batch} must be a multiple of micro_batch {micro_batch} x dp {dp}; "
                f"nearest {', '.join(map(str, nearest))}"
            )
        self.stream = stream
        self.rows = micro_batch
        self.global_batch = global_batch
        self.dp = dp
        self.keeps_documents_apart = keeps_documents_apart
        self.micro_batches_per_rank = global_batch // each

    def sample_indices(self, step: int, dp_rank: int, index: int) -> range:
        """Return the stream's sample numbers of one micro-batch. Raises DataError for a place outside the plan."""
        if step < 0 or not 0 <= dp_rank < self.dp or not 0 <= index < self.micro_batches_per_rank:
            raise DataError(
                f"micro-batch (step {step}, dp rank {dp_rank}, index {index}) is outside the plan: "
                f"dp {self.dp}, {self.micro_batches_per_rank} micro-batches per rank"
            )
        first = step * self.global_batch + (index * self.dp + dp_rank) * self.rows
        return range(first, first + self.rows)

    def micro_batch(self, step: int, dp_rank: int, index: int) -> MicroBatch:
        """Return micro-batch `index` (0 <= index < micro_batches_per_rank) of `dp_rank` at `step`."""
        samples = [self.stream.sample(n) for n in self.sample_indices(step, dp_rank, index)]
        return micro_batch_of(samples, self.keeps_documents_apart)
