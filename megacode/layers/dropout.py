"""Dropout as a function of (seed, step, micro-batch, site, logical element): the same run in every layout."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from megacode.kernels.counter_random import HiddenDropout, fold_seed, hidden_keep_mask
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


def hidden_dropout(x: Tensor, probability: float, draw: Draw | None, site: int, tp: Group) -> HiddenDropout | None:
    """Which elements to drop of `x` [b, s/tp, h], this rank's part of a [b, s, h]; no `draw` (evaluation): none."""
    if draw is None or probability == 0.0:
        return None
    local = x.shape[1]
    return HiddenDropout(probability, draw.at(site), tp.index * local, local * tp.size)


def drop(x: Tensor, dropout: HiddenDropout | None) -> Tensor:
    """`x` [b, s/tp, h] with `dropout` applied."""
    if dropout is None:
        return x
    return x * hidden_keep_mask(dropout, *x.shape, x.device) / (1.0 - dropout.probability)
