"""Messages between pipeline stages: activations forward, gradients back, each of one known shape and dtype.

A message goes from each rank to the rank with the same tp and dp coordinates on the other stage. Sends don't block;
their tensors are held until they have gone.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from megacode.parallel.groups import Groups


class Links:
    """This rank's connections to the other stages. `shape` is [b, s/tp, h], the shape of every message."""

    def __init__(self, groups: Groups, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._groups, self._shape, self._dtype, self._device = groups, shape, dtype, device
        self._leaving: list[tuple[dist.Work, Tensor]] = []

    def send(self, message: Tensor, stage: int) -> None:
        """Start sending `message` to `stage` and return at once."""
        assert tuple(message.shape) == self._shape, f"message {tuple(message.shape)} is not {self._shape}"
        message = message.detach().contiguous()
        work = dist.isend(message, self._groups.topology.peer(self._groups.rank, stage))
        assert work is not None, "this rank is in the world group"
        self._leaving = [pair for pair in self._leaving if not pair[0].is_completed()]
        self._leaving.append((work, message))

    def receive(self, stage: int) -> Tensor:
        """Wait for the next message from `stage`."""
        message = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        dist.recv(message, self._groups.topology.peer(self._groups.rank, stage))
        return message

    def drain(self) -> None:
        """Wait until everything sent has gone."""
        for work, _ in self._leaving:
            work.wait()
        self._leaving.clear()
