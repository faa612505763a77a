"""What a forward pass works on: tokens, the tokens to predict, their weights, positions and documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from megacode.data.stream.sample import Sample


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


def micro_batch_of(samples: Sequence[Sample], keep_documents_apart: bool = False) -> MicroBatch:
    """Return the micro-batch of b samples of s + 1 tokens.

    With `keep_documents_apart` attention stays inside the documents, and positions start again with each. The loss
    does not change: a document's last token still predicts the first of what follows.
    """
    rows = torch.from_numpy(np.stack([sample.tokens for sample in samples]))
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    weights = torch.from_numpy(np.stack([sample.weights[1:] for sample in samples]))
    if not keep_documents_apart:
        return MicroBatch(tokens, targets, weights, torch.arange(tokens.shape[1]).expand_as(tokens).contiguous())
    documents = tuple(length for sample in samples for length in _without_last_token(sample.lengths))
    positions = torch.cat([torch.arange(length) for length in documents]).view_as(tokens)
    return MicroBatch(tokens, targets, weights, positions, documents)


def _without_last_token(lengths: tuple[int, ...]) -> list[int]:
    """Return the lengths in tokens of a sample's documents, less its last token, which is only predicted."""
    return [*lengths[:-1], *([lengths[-1] - 1] if lengths[-1] > 1 else [])]
