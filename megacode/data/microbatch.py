"""What a forward pass works on: tokens, the tokens to predict, their weights, positions and documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class MicroBatch:
    """b sequences of s tokens.

    `tokens`, `targets` [b, s] int64 (`targets` is `tokens` one place on), `weights` [b, s] float32 of each target in
    the loss, `positions` [b, s] int64 for the position embedding. `documents`, where attention must not cross them:
    their lengths in tokens, row after row; positions then count from the start of each document, else of the sequence.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    positions: torch.Tensor
    documents: tuple[int, ...] | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """Return the same micro-batch on `device`."""
        tensors = (self.tokens, self.targets, self.weights, self.positions)
        return MicroBatch(*(tensor.to(device, non_blocking=True) for tensor in tensors), documents=self.documents)


def micro_batch_of(samples: np.ndarray, end_of_text: int | None = None) -> MicroBatch:
    """Return the micro-batch of `samples` int64 [b, s + 1]; every target weighs 1, as StarCoder was trained.

    With `end_of_text` the documents that end with this token are kept apart: positions start again after each. Its own
    target stays the first token of what follows.
    """
    rows = torch.from_numpy(samples)
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    weights = torch.ones(tokens.shape, dtype=torch.float32)
    if end_of_text is None:
        return MicroBatch(tokens, targets, weights, torch.arange(tokens.shape[1]).expand_as(tokens).contiguous())
    documents = document_lengths(samples[:, :-1], end_of_text)
    positions = torch.cat([torch.arange(length) for length in documents]).view_as(tokens)
    return MicroBatch(tokens, targets, weights, positions, documents)


def document_lengths(tokens: np.ndarray, end_of_text: int) -> tuple[int, ...]:
    """Lengths, row after row, of the documents in `tokens` int64 [b, s]: each ends with `end_of_text` or its row."""
    is_last = tokens == end_of_text
    is_last[:, -1] = True
    return tuple(np.diff(np.flatnonzero(is_last), prepend=-1).tolist())
