"""Process groups: made once at start, frozen, passed by hand. A group of one has no handle and costs nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from megacode.layout.topology import Coordinates, Topology


@dataclass(frozen=True)
class Group:
    """Ranks that communicate: their global numbers, this rank's place among them, and torch's handle."""

    ranks: tuple[int, ...]
    index: int
    handle: dist.ProcessGroup | None

    @property
    def size(self) -> int:
        """Ranks in the group."""
        return len(self.ranks)


@dataclass(frozen=True)
class Groups:
    """Every group that one rank belongs to.

    `tied` joins the first and the last stage, which share the embedding matrix; on inner stages it holds this rank
    alone.
    """

    topology: Topology
    rank: int
    world: Group
    tp: Group
    dp: Group
    tied: Group

    @property
    def coords(self) -> Coordinates:
        """Where this rank sits."""
        return self.topology.coords(self.rank)

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank embeds tokens."""
        return self.coords.pp == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank computes the loss."""
        return self.coords.pp == self.topology.pp - 1


def single_rank() -> Groups:
    """The groups of a run of one process; needs no torch.distributed world."""
    alone = Group((0,), 0, None)
    return Groups(Topology(1, 1, 1), 0, alone, alone, alone, alone)


def make_groups(topology: Topology, rank: int) -> Groups:
    """Make this rank's groups; every rank of the world calls it once, in the same order."""
    tied = [
        tuple(sorted({pipeline[0], pipeline[-1]}))
        for pipeline in (_by_stage(topology, g) for g in topology.groups("pp"))
    ]
    return Groups(
        topology,
        rank,
        world=_join((tuple(range(topology.world_size)),), rank),
        tp=_join(topology.groups("tp"), rank),
        dp=_join(topology.groups("dp"), rank),
        tied=_join(tuple(tied), rank),
    )


def _by_stage(topology: Topology, ranks: tuple[int, ...]) -> list[int]:
    return sorted(ranks, key=lambda rank: topology.coords(rank).pp)


def _join(all_groups: tuple[tuple[int, ...], ...], rank: int) -> Group:
    own = Group((rank,), 0, None)
    for ranks in all_groups:
        if len(ranks) == 1:
            continue
        handle = dist.group.WORLD if len(ranks) == dist.get_world_size() else dist.new_group(list(ranks))
        if rank in ranks:
            own = Group(ranks, ranks.index(rank), handle)
    return own


@contextmanager
def joined_world(backend: str, rank: int, world_size: int, timeout_seconds: float, init_method: str) -> Iterator[None]:
    """Be `rank` of a torch.distributed world while the block runs.

    A run of one process joins nothing. `init_method` is torch's, for example `env://` or `file:///path`.
    Whatever uses groups belongs into a function that the block calls: a handle that outlives the world is destroyed
    while the interpreter ends, when gloo's threads can no longer be joined and the process aborts (seen in a fifth of
    all exits).
    """
    if world_size == 1:
        yield
        return
    dist.init_process_group(
        backend,
        init_method=init_method,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
    )
    try:
        yield
    finally:
        gc.collect()
        dist.destroy_process_group()
