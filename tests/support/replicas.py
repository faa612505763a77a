"""What ranks do with the optimizer in the tests: whole runs that can be compared bit by bit, and reductions by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tiny import tiny_config
from torch import Tensor, nn

from megacode.config.schema import RunConfig
from megacode.kernels.dispatch import choose
from megacode.layers.spec import ParamSpec, Split
from megacode.layout.topology import Topology
from megacode.optim.adamw import ShardedAdamW
from megacode.optim.reduction import BucketReduction
from megacode.parallel.groups import joined_world, make_groups
from megacode.prove.outcome import assemble_synthetic
from megacode.prove.ranks import run_ranks
from megacode.train.step import train_step


@dataclass
class Trained:
    """One rank's run: per step, and at its end the masters and weights by logical name where this rank holds all."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    early: list[int] = field(default_factory=list)
    buckets: int = 0
    masters: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    gradients: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)


def train(config: RunConfig, **options: Any) -> list[Trained]:
    """Every rank's run of `config`; `options` are those of `train_rank`."""
    return run_ranks(config.parallel.world_size, _train_rank, config, options)


def _train_rank(rank: int, world_size: int, init_method: str, config: RunConfig, options: dict[str, Any]) -> Trained:
    return train_rank(rank, init_method, config, **options)


def train_rank(
    rank: int, init_method: str, config: RunConfig, at_the_end: bool = False, spoiled: int = 0, late: bool = False
) -> Trained:
    """Train. `at_the_end`: reduce nothing early. `spoiled`: the step in which the last rank's own gradient is infinite.

    `late`: in step 3 a gradient is told of once too often.
    """
    if at_the_end:
        BucketReduction.note = lambda self, parameter: None  # type: ignore[method-assign]
    world_size = config.parallel.world_size
    with joined_world("gloo", rank, world_size, config.launch.timeout_seconds, init_method) as connector:
        run = assemble_synthetic(config, rank, connector)
        optimizer, told = run.optimizer, Trained()
        told.buckets = len(optimizer.layout.buckets)
        finish, weight = optimizer._reduction.finish, run.stage.specs()[0][1]

        def finish_counting() -> None:
            told.early.append(optimizer._reduction.num_started)
            if late and len(told.early) == 3:
                optimizer.note(next(iter(optimizer._reduction._bucket_of)))
            finish()
            if spoiled == len(told.early) and rank == world_size - 1:
                optimizer.gradients.flat[optimizer.owned[-1].start] = float("inf")
            if len(told.early) == 1:
                told.gradients = by_name(optimizer, optimizer.reduced())

        optimizer._reduction.finish = finish_counting  # type: ignore[method-assign]
        for step in range(1, config.train.steps + 1):
            report = train_step(run, step, False)
            told.losses.append(report.loss)
            told.norms.append(report.gradient_norm)
            told.skipped.append(report.skipped)
            told.scales.append(report.loss_scale)
        optimizer.wait_weights()
        assert weight.dtype == run.stage.dtype
        told.masters = by_name(optimizer, optimizer.state["master"])
        told.weights = {spec.name: parameter.detach().float().numpy().copy() for spec, parameter in run.stage.specs()}
        return told


def by_name(optimizer: ShardedAdamW, values: Tensor) -> dict[tuple[str, int], np.ndarray]:
    """What this rank answers for, by logical name and first element of the local part."""
    return {
        (held.spec.name, held.start): optimizer.in_shard(values, held.elements).numpy().copy()
        for held in optimizer.held()
    }


def joined(ranks: list[Trained], what: str) -> dict[str, np.ndarray]:
    """The local parts of all parameters, put together over replicas; for layouts without tp."""
    pieces: dict[str, dict[int, np.ndarray]] = {}
    for rank in ranks:
        for (name, start), values in getattr(rank, what).items():
            pieces.setdefault(name, {})[start] = values
    return {name: np.concatenate([parts[start] for start in sorted(parts)]) for name, parts in pieces.items()}


def hold_back(rank: int, world_size: int, init_method: str) -> tuple[list[list[int]], list[float]]:
    """Three weights, a bucket each, whose gradients are added after backward, as zero-bubble schedules do.

    Two steps of two micro-batches; how many buckets had begun after each backward and each addition of step 2, and the
    first element of the three sums.
    """
    with joined_world("gloo", rank, world_size, 30, init_method) as connector:
        groups = make_groups(Topology(1, 1, world_size), rank, connector)
        config = tiny_config(parallel={"dp": world_size}, optim={"bucket_megabytes": 1e-6})
        weights = [nn.Parameter(torch.zeros(128)) for _ in range(3)]
        specs = [ParamSpec(f"weight{number}", (128,), Split(0)) for number in range(3)]
        optimizer = ShardedAdamW(list(zip(specs, weights, strict=True)), groups, config.optim, choose("torch", "cpu"))
        for _ in range(2):
            begun: list[list[int]] = []
            optimizer.begin(2)
            for _ in range(2):
                x = torch.ones(128, requires_grad=True)
                for weight in weights:
                    x = _HeldBack.apply(x, weight)
                x.sum().backward()
                begun.append([optimizer._reduction.num_started])
            for _ in range(2):
                begun.append([])
                for number, weight in reversed(list(enumerate(weights))):
                    weight.grad.add_((rank + 1) * 10.0**number)
                    optimizer.note(weight)
                    begun[-1].append(optimizer._reduction.num_started)
            optimizer.reduce()
        return begun, [optimizer.gradients.by_name[spec.name][64 * rank].item() for spec in specs]


class _HeldBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
