"""Dropout as a function of (seed, step, micro-batch, site, logical element): the same run in every layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megacode.kernels.counter_random import fold_seed, keep_mask
from megacode.parallel.groups import Group


@dataclass(frozen=True)
class Draw:
    """Which forward pass this is; `micro_batch` counts within the global batch of the step, over all replicas."""

    seed: int
    step: int
    micro_batch: int

    def at(self, site: int) -> int:
        """The 64-bit seed of one dropout site of the model."""
        return fold_seed(self.seed, self.step, self.micro_batch, site)


def sequence_dropout(x: Tensor, probability: float, draw: Draw | None, site: int, tp: Group) -> Tensor:
    """Drop elements of `x` [b, s/tp, h], this rank's part of a [b, s, h]; no `draw` (evaluation) keeps all."""
    if draw is None or probability == 0.0:
        return x
    batch, local, hidden = x.shape
    rows = torch.arange(batch, device=x.device).view(-1, 1, 1) * (local * tp.size)
    positions = torch.arange(local, device=x.device).view(1, -1, 1) + tp.index * local
    index = (rows + positions) * hidden + torch.arange(hidden, device=x.device)
    return x * keep_mask(draw.at(site), index, probability) / (1.0 - probability)
