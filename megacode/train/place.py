"""Where the launcher put this process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """This process's rank in the world and on its machine, and torch's rendezvous, such as `env://`."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    init_method: str = "env://"
