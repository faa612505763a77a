"""One optimizer step, from micro-batches to new weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from megacode.optim.learning_rate import learning_rate
from megacode.parallel.collectives import all_sum_, start_all_sum_
from megacode.pipeline.runner import Work
from megacode.train.assemble import Run


@dataclass(frozen=True)
class StepReport:
    """What one step did. `loss` in nats per token; `seconds` by phase on this rank.

    `skipped`: the gradient was not finite and the weights stayed; `skipped_steps` of them in the whole run so far.
    `loss_scale`: what multiplied the loss in backward. `stop`: some rank was asked to stop.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: int
    seconds: dict[str, float]
    skipped: bool
    skipped_steps: int
    loss_scale: float
    stop: bool


class Clock:
    """Splits a step's time into phases."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def phase(self, name: str) -> None:
        """All since the last call was `name`."""
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now

    def total(self) -> dict[str, float]:
        """The phases and their sum, in seconds."""
        return {**self.seconds, "total": self._last - self._start}


def train_step(run: Run, step: int, stop_asked: bool) -> StepReport:
    """Do optimizer step `step` (from 1): schedule, reduction, norm, update. Every rank calls it."""
    clock, optimizer = Clock(), run.optimizer
    batches = run.batches(run.prefetcher, step - 1)
    scaling = optimizer.scaling.scale
    scale = loss_scale(run, [batch.weights for batch in batches], scaling)
    clock.phase("data")
    optimizer.begin(run.config.micro_batches)
    clock.phase("weights")
    losses = run.runner.run(run.schedule, Work(batches, run.passes(run.feed.train, batches, step), scale))
    clock.phase("compute")
    optimizer.reduce()
    clock.phase("reduce")
    # Nothing is summed between the update and the next forward pass: on the same connections it would wait for all
    # of the new weights.
    loss, stop = share(run, [sum_of(losses, run.device) * scale() / scaling, torch.tensor(float(stop_asked))])
    clock.phase("report")
    norm = optimizer.gradient_norm()
    rate = learning_rate(run.config, step)
    updated = optimizer.step(step, rate, norm)
    clock.phase("optimizer")
    return StepReport(
        step=step,
        loss=loss,
        gradient_norm=norm,
        learning_rate=rate,
        tokens=run.config.tokens_per_step,
        seconds=clock.total(),
        skipped=not updated,
        skipped_steps=optimizer.scaling.skipped_steps,
        loss_scale=scaling,
        stop=stop > 0,
    )


def loss_scale(run: Run, weights: list[Tensor], scaling: float = 1.0) -> Callable[[], Tensor]:
    """What returns `scaling` over the sum of all targets' weights in the global batch, fp32 scalar.

    The sum begins now and is waited for when it is asked for. 1 on inner stages, which see no targets. Weights are 0
    or 1: a batch in which nothing counts has the loss 0.
    """
    if not weights:
        return lambda: torch.ones((), device=run.device)
    own = torch.stack([weight.sum() for weight in weights]).sum()
    arriving = start_all_sum_(own, run.groups.dp)
    return cache(lambda: scaling / arriving.wait().clamp(min=1.0))


def sum_of(losses: list[Tensor], device: torch.device) -> Tensor:
    """The sum of the micro-batches' losses; zero on stages that compute none."""
    return torch.stack(losses).sum() if losses else torch.zeros((), device=device)


def share(run: Run, values: list[Tensor]) -> list[float]:
    """Sum scalars over all replicas, from one rank of each tensor-parallel group, and give them to every rank.

    The second and later values are summed over every rank of the world.
    """
    first, *others = values
    counted = first if run.groups.tp.index == 0 else torch.zeros_like(first)
    vector = torch.stack([value.to(run.device, torch.float64) for value in (counted, *others)])
    return [float(value) for value in all_sum_(vector, run.groups.world)]
