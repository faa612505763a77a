"""What a layout computes: initial weights and first gradients by logical name, gradient norms and losses by step.

Any two layouts can be compared by it, however they cut the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megacode.config.schema import RunConfig
from megacode.parallel.groups import Connector, joined_world, single_rank
from megacode.pipeline.runner import observe_nothing
from megacode.prove.ranks import run_ranks
from megacode.prove.synthetic import synthetic_plan
from megacode.train.assemble import Run, assemble, join_groups
from megacode.train.feed import Feed
from megacode.train.kernels import choose_kernels
from megacode.train.step import train_step

_TIMEOUT_SECONDS = 600.0  # 32 ranks on two cores take a minute


@dataclass(frozen=True)
class Part:
    """Elements from `start` on, in row-major order, of the part `place` of a logical tensor, as one rank holds them."""

    name: str
    shape: tuple[int, ...]
    place: tuple[slice, ...]
    start: int
    values: np.ndarray


@dataclass(frozen=True)
class RankOutcome:
    """One rank's share of the outcome; norms and losses are those of the whole run, one per step."""

    weights: list[Part]
    gradients: list[Part]
    norms: list[float]
    losses: list[float]


@dataclass(frozen=True)
class Outcome:
    """What a layout computed. `weights` before step 1 and `gradients` of step 1 (unclipped), fp32, by logical name.

    `holders`: the ranks that answer for a parameter.
    """

    weights: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    norms: list[float]
    losses: list[float]
    holders: dict[str, tuple[int, ...]]
    ranks_agree: bool


def compute(config: RunConfig, worker: Any = None) -> Outcome:
    """Train `config` on made-up tokens for all its steps, in one process per rank; raises RankFailure if one fails.

    `worker` stands in for `train_rank`, to prove that a fault is noticed.
    """
    return join(run_ranks(config.parallel.world_size, worker or train_rank, config, timeout=_TIMEOUT_SECONDS))


def train_rank(rank: int, world_size: int, init_method: str, config: RunConfig) -> RankOutcome:
    """One rank of `compute`."""
    with joined_world("gloo", rank, world_size, config.launch.timeout_seconds, init_method) as connector:
        run = assemble_synthetic(config, rank, connector)
        weights = _parts(run, run.optimizer.state["master"])
        first = train_step(run, 1, False)
        clipped_by = min(1.0, config.optim.clip / (first.gradient_norm + 1e-6))
        gradients = _parts(run, run.optimizer.reduced() / clipped_by)
        reports = [first, *(train_step(run, step, False) for step in range(2, config.train.steps + 1))]
        run.optimizer.wait_weights()
        return RankOutcome(
            weights, gradients, [report.gradient_norm for report in reports], [report.loss for report in reports]
        )


def assemble_synthetic(config: RunConfig, rank: int, connector: Connector | None = None) -> Run:
    """This rank's run on made-up tokens, on the CPU, inside a joined world (or alone)."""
    parallel = config.parallel
    groups = join_groups(config, rank, connector) if parallel.world_size > 1 else single_rank()
    kernels = choose_kernels(config, "cpu")
    return assemble(config, groups, Feed(synthetic_plan(config), {}, ""), kernels, torch.device("cpu"), observe_nothing)


def join(ranks: Sequence[RankOutcome]) -> Outcome:
    """Put the ranks' shares together; NaN where no rank holds an element."""
    first = ranks[0]
    return Outcome(
        _whole([rank.weights for rank in ranks]),
        _whole([rank.gradients for rank in ranks]),
        first.norms,
        first.losses,
        {
            name: tuple(number for number, rank in enumerate(ranks) if any(part.name == name for part in rank.weights))
            for name in {part.name for rank in ranks for part in rank.weights}
        },
        ranks_agree=all((rank.norms, rank.losses) == (first.norms, first.losses) for rank in ranks),
    )


def _parts(run: Run, flat: Tensor) -> list[Part]:
    """This rank's shard of `flat`, a tensor over the optimizer's owned elements, by logical tensor."""
    tp = run.groups.tp
    return [
        Part(
            held.spec.name,
            held.spec.shape,
            held.spec.local_slice(tp.size, tp.index),
            held.start,
            run.optimizer.in_shard(flat, held.elements).numpy().copy(),
        )
        for held in run.optimizer.held()
    ]


def _whole(all_parts: Sequence[Sequence[Part]]) -> dict[str, np.ndarray]:
    whole: dict[str, np.ndarray] = {}
    for part in (part for one_rank in all_parts for part in one_rank):
        tensor = whole.setdefault(part.name, np.full(part.shape, np.nan, dtype=np.float32))
        local = tensor[part.place].copy().reshape(-1)
        local[part.start : part.start + part.values.size] = part.values
        tensor[part.place] = local.reshape(tensor[part.place].shape)
    return whole
