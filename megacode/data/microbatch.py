"""What the pipeline's first and last stage get: tokens, the tokens to predict, their weights and positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class MicroBatch:
    """b sequences of s tokens.

    `tokens`, `targets` [b, s] int64 (`targets` is `tokens` one place on), `weights` [b, s] float32 of each target in
    the loss, `positions` [b, s] int64 for the position embedding, counted from the start of the sequence.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    positions: torch.Tensor

    def to(self, device: torch.device) -> MicroBatch:
        """Return the same micro-batch on `device`."""
        tensors = (self.tokens, self.targets, self.weights, self.positions)
        return MicroBatch(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def micro_batch_of(samples: np.ndarray) -> MicroBatch:
    """Return the micro-batch of `samples` int64 [b, s + 1]; every target weighs 1, as StarCoder was trained."""
    rows = torch.from_numpy(samples)
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    positions = torch.arange(tokens.shape[1]).expand_as(tokens).contiguous()
    return MicroBatch(tokens, targets, torch.ones(tokens.shape, dtype=torch.float32), positions)
