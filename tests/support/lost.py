"""A pipeline of which one stage leaves in the middle."""

from __future__ import annotations

import torch

from megacode.layout.topology import Topology
from megacode.parallel.groups import joined_world, make_groups
from megacode.parallel.sockets import PeerLost
from megacode.pipeline.links import Links


def lose_the_last_stage(rank: int, world_size: int, init_method: str) -> str:
    """Stage 1 leaves; what stage 0 hears while it waits for a gradient."""
    with joined_world("gloo", rank, world_size, 20, init_method):
        links = Links(make_groups(Topology(1, 2, 1), rank), (1, 4, 8), torch.float32, torch.device("cpu"))
        if rank == 1:
            links.start_receive(0)()
            return ""
        links.send(torch.zeros(1, 4, 8), 1)
        try:
            links.start_receive(1)()
        except PeerLost as error:
            return str(error)
        return "nothing"
