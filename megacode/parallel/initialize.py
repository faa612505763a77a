"""Initial values that know no layout: a tensor depends on (seed, name, global shape) alone, and each rank keeps its
slice of the whole. Drawn on the CPU, so that every device starts from the same bits."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def normal(seed: int, name: str, shape: tuple[int, ...], std: float) -> Tensor:
    """The whole fp32 tensor of `shape`, from N(0, std^2), for the parameter called `name`."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.empty(shape, dtype=torch.float32).normal_(0.0, std, generator=generator)
