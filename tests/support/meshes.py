"""What ranks do with a mesh of sockets in the tests."""

from __future__ import annotations

import socket
import time

import torch

from megacode.layout.topology import Topology
from megacode.parallel.collectives import (
    all_sum_,
    start_all_gather_flat_,
    start_all_sum_,
    start_reduce_scatter_flat_,
)
from megacode.parallel.groups import Group, Groups, joined_world, make_groups
from megacode.parallel.sockets import PeerLost


def own_values(rank: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Reproducible values of one rank."""
    return torch.randn(count, generator=torch.Generator().manual_seed(rank)).to(dtype)


def collect(groups: Groups, count: int, dtype: torch.dtype) -> dict[str, list[float]]:
    """Every collective on this rank's values."""
    group, own = groups.tp, own_values(groups.rank, count, dtype)
    whole = torch.zeros(group.size, count, dtype=dtype)
    whole[group.index] = own
    return {
        "sum": all_sum_(own.clone(), group).float().tolist(),
        "gather": start_all_gather_flat_(whole.flatten(), group).wait().float().tolist(),
        "scatter": start_reduce_scatter_flat_(own.repeat(group.size), group).wait().float().tolist(),
        "several on their way": several(own, group),
    }


def several(own: torch.Tensor, group: Group) -> list[float]:
    """Sums and gathers that are begun together and waited for later."""
    count = len(own)
    wholes = [torch.cat([own * number] * group.size) for number in (1.0, 0.5, -1.0)]
    begun = [start_reduce_scatter_flat_(whole, group) for whole in wholes]
    begun += [start_all_sum_(own.clone(), group)]
    sums = [arriving.wait() for arriving in begun]
    gathering = [start_all_gather_flat_(whole, group) for whole in wholes]
    return torch.cat([*sums, *(arriving.wait()[: 2 * count] for arriving in gathering)]).float().tolist()


def compare(rank: int, world_size: int, init_method: str, count: int, dtype: torch.dtype) -> tuple[dict, dict]:
    """The same collectives by sockets and by torch.distributed."""
    with joined_world("gloo", rank, world_size, 60, init_method) as connector:
        topology = Topology(world_size, 1, 1)
        by_sockets, by_torch = make_groups(topology, rank, connector), make_groups(topology, rank)
        assert by_sockets.tp.mesh is not None and by_torch.tp.mesh is None
        return collect(by_sockets, count, dtype), collect(by_torch, count, dtype)


def lose_rank_1(rank: int, world_size: int, init_method: str, silent: bool) -> str:
    """Rank 1 leaves, or stays silent; what the others hear, and after how long."""
    with joined_world("gloo", rank, world_size, 2, init_method) as connector:
        groups = make_groups(Topology(world_size, 1, 1), rank, connector)
        if rank == 1:
            if silent:
                time.sleep(4)
            return ""
        start = time.monotonic()
        try:
            all_sum_(torch.ones(3), groups.tp)
        except PeerLost as error:
            return f"{error} [{time.monotonic() - start:.0f} s]"
        return "nothing"


def knock_first(rank: int, world_size: int, init_method: str) -> float:
    """A stranger knocks at rank 0's door before rank 1 does."""
    with joined_world("gloo", rank, world_size, 20, init_method) as connector:
        assert connector is not None
        if rank == 1:
            host, port = connector._address(0)
            for said in (b"", b"GET / HTTP/1.1\r\n\r\n" * 4):
                stranger = socket.create_connection((host, port))
                stranger.sendall(said)
                stranger.close()
        groups = make_groups(Topology(2, 1, 1), rank, connector)
        return float(all_sum_(torch.tensor([rank + 1.0]), groups.tp))
