"""Every rank's part of a model in one process: for what needs each rank's state, and no communication."""

from __future__ import annotations

from pathlib import Path

import torch

from megacode.checkpoint.manifest import Manifest, RunState
from megacode.checkpoint.portions import OwnShare
from megacode.checkpoint.save import rank_file, write_file, write_manifest
from megacode.config.schema import RunConfig
from megacode.kernels.dispatch import choose
from megacode.layout.topology import Topology
from megacode.model.stage import Stage
from megacode.optim.adamw import ShardedAdamW
from megacode.parallel.groups import Group, Groups


def groups_of(config: RunConfig) -> list[Groups]:
    """The groups of every rank, none of which can communicate."""
    parallel = config.parallel
    topology = Topology(parallel.tp, parallel.pp, parallel.dp, parallel.order)

    def group(rank: int, *axes: str) -> Group:
        ranks = next(ranks for ranks in topology.groups(*axes) if rank in ranks)
        return Group(ranks, ranks.index(rank), None)

    world = tuple(range(topology.world_size))
    return [
        Groups(
            topology,
            rank,
            world=Group(world, rank, None),
            tp=group(rank, "tp"),
            dp=group(rank, "dp"),
            tied=Group((rank,), 0, None),
        )
        for rank in world
    ]


def optimizers_of(config: RunConfig) -> list[tuple[Groups, ShardedAdamW]]:
    """Every rank's optimizer; its moments are numbers that no two elements share."""
    made = []
    for groups in groups_of(config):
        stage = Stage(config, groups, choose("torch", "cpu"), torch.device("cpu"))
        optimizer = ShardedAdamW(stage.specs(), groups, config.optim, stage_kernels())
        generator = torch.Generator().manual_seed(groups.rank)
        for kind in ("exp_avg", "exp_avg_sq"):
            optimizer.state[kind].copy_(torch.randn(optimizer.state[kind].shape, generator=generator))
        made.append((groups, optimizer))
    return made


def stage_kernels() -> object:
    """What the optimizer computes with."""
    return choose("torch", "cpu")


def save_rankless(folder: Path, config: RunConfig, step: int = 1) -> Manifest:
    """Write the checkpoint `folder` as the ranks of the configured layout do."""
    folder.mkdir(parents=True)
    parts = []
    for groups, optimizer in optimizers_of(config):
        share = OwnShare(optimizer, groups)
        name = rank_file(groups.rank)
        parts.append(write_file(folder, name, share.portions, share.kinds, "F32", share.values()))
    state = RunState(step, step * config.tokens_per_step, config.model_dump(mode="json"), "fingerprint")
    return write_manifest(folder, state, OwnShare.kinds, parts)
