"""Bytes of training state on a rank: weights, gradients and AdamW's state, which ZeRO-1 cuts over dp.

bf16: 2 bytes of weight, 4 of fp32 gradient, and 12 / dp of fp32 master weight and two moments: Megatron's 6 + 12 / dp
(docs/distrib_optimizer.md). fp32: 4 of weight, 4 of gradient, and the same 12 / dp. Activations: `activations.py`.
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


def state_bytes(parameters: int, precision: Literal["bf16", "fp16", "fp32"], dp: int) -> StateBytes:
    """Bytes for `parameters` on a rank whose optimizer state is cut over `dp` replicas; the largest share counts."""
    weight = {"bf16": 2, "fp16": 2, "fp32": 4}[precision]
    return StateBytes(weight * parameters, 4 * parameters, 12 * -(-parameters // dp))


def state_bytes_on_rank(config: RunConfig, stage: int) -> StateBytes:
    """Bytes on each rank of pipeline stage `stage`. Raises ValueError for a stage outside the pipeline."""
    parameters = count_on_rank(config.model, config.parallel, stage).total
    return state_bytes(parameters, config.train.precision, config.parallel.dp)
