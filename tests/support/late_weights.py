"""Runs in which weights that nobody has waited for are NaN, so that whoever reads one too early shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from megacode.config.schema import RunConfig
from megacode.optim import adamw, tied
from megacode.parallel.collectives import Arriving, start_all_gather_flat_, start_broadcast_
from megacode.parallel.groups import Group, joined_world
from megacode.prove.outcome import assemble_synthetic
from megacode.train.step import train_step


@dataclass
class Late:
    """One rank's run. `outstanding`: buckets not waited for at the start and at the end of each step's passes."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    outstanding: list[tuple[int, int]] = field(default_factory=list)
    buckets: int = 0


def train(
    rank: int, world_size: int, init_method: str, config: RunConfig, poisons: bool, hasty: str | None = None
) -> Late:
    """Train on made-up tokens. `poisons`: new weights are NaN until they are waited for.

    `hasty`: the class of the modules of which a rank's first does not wait.
    """
    if poisons:
        adamw.start_all_gather_flat_ = late_gather
        tied.start_broadcast_ = late_copy
    with joined_world("gloo", rank, world_size, config.launch.timeout_seconds, init_method) as connector:
        run = assemble_synthetic(config, rank, connector)
        arrivals, told = run.optimizer.arrivals, Late(buckets=len(run.optimizer.layout.buckets))
        if hasty is not None:
            modules = [module for module, _ in run.stage.parts() if type(module).__name__ == hasty]
            for module in modules[:1]:
                module._forward_pre_hooks.clear()
        passes = run.runner.run

        def counting(*arguments: Any) -> list[Tensor]:
            before = arrivals.num_outstanding
            losses = passes(*arguments)
            told.outstanding.append((before, arrivals.num_outstanding))
            return losses

        run.runner.run = counting  # type: ignore[method-assign]
        for step in range(1, config.train.steps + 1):
            report = train_step(run, step, False)
            told.losses.append(report.loss)
            told.norms.append(report.gradient_norm)
        return told


def late_gather(whole: Tensor, group: Group) -> Arriving:
    """`start_all_gather_flat_` that shows nothing before it is waited for."""
    if group.size == 1:
        return start_all_gather_flat_(whole, group)
    coming = torch.zeros_like(whole)
    own = whole.view(group.size, -1)[group.index].clone()
    coming.view(group.size, -1)[group.index].copy_(own)
    arriving = start_all_gather_flat_(coming, group)
    whole.fill_(float("nan")).view(group.size, -1)[group.index].copy_(own)
    return Arriving(lambda: whole.copy_(arriving.wait()))


def late_copy(x: Tensor, group: Group, source: int) -> Arriving:
    """`start_broadcast_` that shows nothing before it is waited for."""
    if group.index == source:
        return start_broadcast_(x, group, source)
    arriving = start_broadcast_(torch.empty_like(x), group, source)
    x.fill_(float("nan"))
    return Arriving(lambda: x.copy_(arriving.wait()))
