"""A run small enough to be made again and again, and what a layout of it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megacode.config.load import parse_config
from megacode.config.schema import RunConfig
from megacode.data.batches import BatchPlan
from megacode.kernels.dispatch import choose
from megacode.layout.topology import Topology
from megacode.parallel.groups import Connector, joined_world, make_groups, single_rank
from megacode.pipeline.runner import observe_nothing
from megacode.prove.bench import RandomTokens
from megacode.train.assemble import Feed, Run, assemble
from megacode.train.step import train_step


def tiny_config(**sections: dict[str, Any]) -> RunConfig:
    """A two-layer fp32 StarCoder on the CPU; sections are merged over it."""
    table: dict[str, dict[str, Any]] = {
        "model": {"layers": 2, "hidden": 48, "heads": 4, "vocab": 96, "context": 40},
        "data": {"train": "unused", "tokenizer": "unused", "sequence": 32},
        "optim": {"lr": 3e-3, "lr_warmup": 2},
        "train": {"steps": 10, "global_batch": 8, "precision": "fp32"},
        "launch": {"device": "cpu", "timeout_seconds": 60},
    }
    for section, values in sections.items():
        table[section] = {**table.get(section, {}), **values}
    return parse_config(table, "tiny")


@dataclass(frozen=True)
class Part:
    """Elements `start` .. of the part `place` of a logical tensor, as one rank holds them."""

    name: str
    shape: tuple[int, ...]
    place: tuple[slice, ...]
    start: int
    values: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What a layout computed: initial weights and first gradients by logical name, norms and losses by step."""

    weights: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    norms: list[float]
    losses: list[float]


def tiny_run(config: RunConfig, rank: int, connector: Connector | None = None) -> Run:
    """This rank's run on made-up tokens, inside a joined world."""
    parallel = config.parallel
    topology = Topology(parallel.tp, parallel.pp, parallel.dp, parallel.order)
    groups = make_groups(topology, rank, connector) if topology.world_size > 1 else single_rank()
    tokens: Any = RandomTokens(config.model.vocab, config.data.sequence)
    plan = BatchPlan(tokens, config.train.micro_batch, config.train.global_batch, parallel.dp)
    device = torch.device("cpu")
    kernels = choose(config.kernels.implementation, "cpu")
    return assemble(config, groups, Feed(plan, {}, ""), kernels, device, observe_nothing)


def train_tiny(rank: int, world_size: int, init_method: str, config: RunConfig) -> dict[str, Any]:
    """Train a tiny run to its last step on one rank; returns its parts of the outcome."""
    with joined_world("gloo", rank, world_size, 60, init_method) as connector:
        run = tiny_run(config, rank, connector)
        weights = list(parts(run, run.optimizer.state["master"]))
        first = train_step(run, 1, False)
        clipped_by = min(1.0, config.optim.clip / (first.gradient_norm + 1e-6))
        gradients = list(parts(run, run.optimizer.reduced / clipped_by))
        reports = [first, *(train_step(run, step, False) for step in range(2, config.train.steps + 1))]
        return {
            "weights": weights,
            "gradients": gradients,
            "norms": [report.gradient_norm for report in reports],
            "losses": [report.loss for report in reports],
        }


def parts(run: Run, flat: Tensor) -> list[Part]:
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


def assemble_parts(all_parts: list[list[Part]]) -> dict[str, np.ndarray]:
    """Whole logical tensors from the parts of all ranks; NaN where nobody holds an element."""
    whole: dict[str, np.ndarray] = {}
    for part in (part for one_rank in all_parts for part in one_rank):
        tensor = whole.setdefault(part.name, np.full(part.shape, np.nan, dtype=np.float32))
        local = tensor[part.place].copy().reshape(-1)
        local[part.start : part.start + part.values.size] = part.values
        tensor[part.place] = local.reshape(tensor[part.place].shape)
    return whole


def outcome(results: list[dict[str, Any]]) -> Outcome:
    """Put the ranks' results together; all ranks must tell the same losses and norms."""
    for result in results[1:]:
        assert result["losses"] == results[0]["losses"], "ranks tell different losses"
        assert result["norms"] == results[0]["norms"], "ranks tell different gradient norms"
    return Outcome(
        assemble_parts([result["weights"] for result in results]),
        assemble_parts([result["gradients"] for result in results]),
        results[0]["norms"],
        results[0]["losses"],
    )
