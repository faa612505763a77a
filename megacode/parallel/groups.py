"""Process groups: made once at start, frozen, passed by hand. A group of one has no handle and costs nothing."""

from __future__ import annotations

import gc
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from megacode.layout.topology import Coordinates, Topology
from megacode.parallel.sockets import Listener, Mesh, connect

MOST_RANKS_IN_A_MESH = 16
_TOKEN_BYTES = 16
_DOOR_BYTES = 320


@dataclass(frozen=True)
class Group:
    """Ranks that communicate: their global numbers, this rank's place among them, torch's handle, and on CPU a mesh."""

    ranks: tuple[int, ...]
    index: int
    handle: dist.ProcessGroup | None
    mesh: Mesh | None = None

    @property
    def size(self) -> int:
        """Ranks in the group."""
        return len(self.ranks)


@dataclass(frozen=True)
class Groups:
    """Every group that one rank belongs to.

    `tied` joins the two stages that hold the ends of the model and share the embedding matrix; elsewhere, and where one
    stage holds both, it holds this rank alone.
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


def single_rank() -> Groups:
    """The groups of a run of one process; needs no torch.distributed world."""
    alone = Group((0,), 0, None)
    return Groups(Topology(1, 1, 1), 0, alone, alone, alone, alone)


def make_groups(
    topology: Topology, rank: int, connector: Connector | None = None, head_stage: int | None = None
) -> Groups:
    """Make this rank's groups; every rank of the world calls it once, in the same order.

    `connector` joins CPU ranks by sockets; None leaves all communication to torch.distributed. `head_stage`: the
    pipeline stage that holds the head; the last unless given. The embedding is on stage 0.
    """
    ends = {0, topology.pp - 1 if head_stage is None else head_stage}
    pipelines = ([rank for rank in ranks if topology.coords(rank).pp in ends] for ranks in topology.groups("pp"))
    tied = tuple(tuple(sorted(ranks, key=lambda rank: topology.coords(rank).pp)) for ranks in pipelines)
    return Groups(
        topology,
        rank,
        world=_join((tuple(range(topology.world_size)),), rank, connector),
        tp=_join(topology.groups("tp"), rank, connector),
        dp=_join(topology.groups("dp"), rank, connector),
        tied=_join(tied, rank, connector),
    )


def _join(all_groups: tuple[tuple[int, ...], ...], rank: int, connector: Connector | None) -> Group:
    own = Group((rank,), 0, None)
    for ranks in all_groups:
        if len(ranks) == 1:
            continue
        handle = dist.group.WORLD if len(ranks) == dist.get_world_size() else dist.new_group(list(ranks))
        if rank in ranks:
            mesh = connector.join(ranks) if connector and len(ranks) <= MOST_RANKS_IN_A_MESH else None
            own = Group(ranks, ranks.index(rank), handle, mesh)
    return own


class Connector:
    """Joins groups of CPU ranks by sockets. Every rank of a joined world makes one, and joins groups in the same order.

    Limits: a rank that others cannot reach by its host name cannot be joined.
    """

    def __init__(self, rank: int, timeout_seconds: float) -> None:
        self._rank, self._timeout, self._joined = rank, timeout_seconds, 0
        self._token = _from_rank_0(secrets.token_bytes(_TOKEN_BYTES))
        self._listener = Listener(self._token, timeout_seconds)
        self._host = socket.gethostname()
        door = f"{self._host}:{self._listener.port}".encode()
        self._doors = [text.decode().rsplit(":", 1) for text in _from_all(door)]

    def join(self, ranks: tuple[int, ...]) -> Mesh:
        """Connections to all `ranks`, of which this is one; all of them call it."""
        index = ranks.index(self._rank)
        number, self._joined = self._joined, self._joined + 1
        connections = {
            peer: connect(self._address(ranks[peer]), self._token, number, index, self._timeout)
            for peer in range(index)
        }
        connections |= {peer: self._listener.accept(number, peer) for peer in range(index + 1, len(ranks))}
        names = [f"rank {rank} on {self._doors[rank][0]}" for rank in ranks]
        return Mesh(connections, index, names, self._timeout)

    def _address(self, rank: int) -> tuple[str, int]:
        host, port = self._doors[rank]
        return ("127.0.0.1" if host == self._host else host, int(port))


def _from_rank_0(data: bytes) -> bytes:
    buffer = torch.tensor(list(data), dtype=torch.uint8)
    dist.broadcast(buffer, src=0)
    return bytes(buffer.tolist())


def _from_all(data: bytes) -> list[bytes]:
    own = torch.tensor(list(data.ljust(_DOOR_BYTES, b"\0")), dtype=torch.uint8)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    return [bytes(buffer.tolist()).rstrip(b"\0") for buffer in gathered]


@contextmanager
def joined_world(
    backend: str, rank: int, world_size: int, timeout_seconds: float, init_method: str
) -> Iterator[Connector | None]:
    """Be `rank` of a torch.distributed world while the block runs; yields what joins CPU ranks (gloo) by sockets.

    A run of one process joins nothing. `init_method` is torch's, for example `env://` or `file:///path`.
    Whatever uses groups belongs into a function that the block calls: a handle that outlives the world is destroyed
    while the interpreter ends, when gloo's threads can no longer be joined and the process aborts (seen in a fifth of
    all exits).
    """
    if world_size == 1:
        yield None
        return
    dist.init_process_group(
        backend,
        init_method=init_method,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
    )
    try:
        yield Connector(rank, timeout_seconds) if backend == "gloo" else None
    finally:
        gc.collect()
        dist.destroy_process_group()
