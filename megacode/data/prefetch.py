"""Micro-batches made ahead by worker processes, in the order in which they are asked for.

A micro-batch is a function of (step, rank, index), so who computes it changes nothing: workers only change when. Zero
workers compute at the moment of asking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import DataLoader, Dataset

from megacode.data.batches import BatchPlan
from megacode.data.errors import DataError
from megacode.data.microbatch import MicroBatch

MICRO_BATCHES_AHEAD = 4  # of each worker


class Prefetcher:
    """The micro-batches of data-parallel rank `dp_rank` of `plan`, `workers` processes making them ahead."""

    def __init__(self, plan: BatchPlan, dp_rank: int, workers: int, last_step: int) -> None:
        """Nothing starts before the first `step`; none is made ahead from step `last_step` on."""
        self.plan, self._dp_rank, self._workers, self._last_step = plan, dp_rank, workers, last_step
        self._next_step = -1
        self._batches: Iterator[MicroBatch] = iter(())

    def step(self, step: int) -> Sequence[MicroBatch]:
        """Return the rank's micro-batches of step `step`, from 0; steps in order are made ahead.

        Raises DataError when a worker has died.
        """
        each = self.plan.micro_batches_per_rank
        if not self._workers:
            return [self.plan.micro_batch(step, self._dp_rank, index) for index in range(each)]
        if step != self._next_step:
            self._batches = self._from(step)
        self._next_step = step + 1
        try:
            return [next(self._batches) for _ in range(each)]
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a data worker of step {step} died ({error}); see the system's log for its end, most often memory: "
                "lower data.workers"
            ) from error

    def _from(self, step: int) -> Iterator[MicroBatch]:
        """Return the micro-batches from `step` on, made ahead."""
        loader = DataLoader(
            _Places(self.plan, self._dp_rank, step, self._last_step),
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=MICRO_BATCHES_AHEAD,
            multiprocessing_context="forkserver",
        )
        return iter(loader)


class _Places(Dataset[MicroBatch]):
    """Micro-batch number i of one rank, from a step on."""

    def __init__(self, plan: BatchPlan, dp_rank: int, first_step: int, last_step: int) -> None:
        self._plan, self._dp_rank, self._first_step, self._last_step = plan, dp_rank, first_step, last_step

    def __len__(self) -> int:
        return (self._last_step - self._first_step) * self._plan.micro_batches_per_rank

    def __getitem__(self, place: int) -> MicroBatch:
        steps, index = divmod(place, self._plan.micro_batches_per_rank)
        return self._plan.micro_batch(self._first_step + steps, self._dp_rank, index)
