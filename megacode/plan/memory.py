"""Bytes of training state on a rank: weights, gradients and AdamW's state, which ZeRO-1 cuts over dp (ZeRO-0: 12).

bf16: 2 bytes of weight, 4 of fp32 gradient, and 12 / dp of fp32 master weight and two moments: Megatron's 6 + 12 / dp
(docs/distrib_optimizer.md). fp32: 4 of weight, 4 of gradient, and the same 12 / dp; 8 where a replica updates all of
its weights, which are then their own masters. Gradients are reduced in place, but for `optim.reduce_dtype = "weights"`,
whose copies in the weights' dtype are on their way together at the end of a step.
Activations are counted in `activations.py`; what aligns parameters and shards is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megacode.config.schema import RunConfig
from megacode.plan.parameters import count_on_rank


@dataclass(frozen=True)
class StateBytes:
    """Bytes on one rank, by purpose."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All of them, bytes."""
        return self.weights + self.gradients + self.optimizer


def state_bytes(
    parameters: int,
    precision: Literal["bf16", "fp16", "fp32"],
    dp: int,
    zero_stage: Literal[0, 1] = 1,
    reduce_dtype: Literal["fp32", "weights"] = "fp32",
) -> StateBytes:
    """Bytes for `parameters` on one of `dp` ranks that hold them; of what is cut, the largest share counts."""
    weight = {"bf16": 2, "fp16": 2, "fp32": 4}[precision]
    travelling = weight if reduce_dtype == "weights" and dp > 1 else 0
    updated = -(-parameters // dp) if zero_stage == 1 else parameters
    state = 8 if precision == "fp32" and updated == parameters else 12
    return StateBytes(weight * parameters, (4 + travelling) * parameters, state * updated)


def state_bytes_on_rank(config: RunConfig, stage: int) -> StateBytes:
    """Bytes on each rank of pipeline stage `stage`. Raises ValueError for a stage outside the pipeline."""
    parameters = count_on_rank(config.model, config.parallel, stage).total
    optim = config.optim
    return state_bytes(parameters, config.train.precision, config.parallel.dp, optim.zero_stage, optim.reduce_dtype)
