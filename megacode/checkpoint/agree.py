"""What one rank could not do, all ranks hear of, so that none goes on alone."""

from __future__ import annotations

import torch

from megacode.parallel.collectives import all_gather_stacked, all_sum_
from megacode.parallel.groups import Groups

_TEXT_BYTES = 2048


def first_failure(groups: Groups, device: torch.device, failure: str) -> str:
    """The failure of the first rank that has one, with its number; empty if no rank has. Every rank calls it.

    `failure`: why this rank failed, or empty.
    """
    failed = all_sum_(torch.tensor([int(bool(failure))], device=device), groups.world)
    if not failed.item():
        return ""
    own = torch.tensor(list(failure.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")), dtype=torch.uint8)
    texts = all_gather_stacked(own.to(device), groups.world).cpu()
    for rank, row in enumerate(texts):
        if text := bytes(row.tolist()).rstrip(b"\0").decode(errors="replace"):
            return text if groups.world.size == 1 else f"rank {rank}: {text}"
    raise AssertionError("a rank failed and said nothing")
