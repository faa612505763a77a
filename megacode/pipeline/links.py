"""Messages between pipeline stages: activations forward, gradients back, each of one known shape and dtype.

A message goes from each rank to the rank with the same tp and dp coordinates on the other stage. Sends don't block;
their tensors are held until they have gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from megacode.parallel.groups import Groups
from megacode.parallel.sockets import PeerLost


class Links:
    """This rank's connections to the other stages. `shape` is [b, s/tp, h], the shape of every message."""

    def __init__(self, groups: Groups, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._groups, self._shape, self._dtype, self._device = groups, shape, dtype, device
        self._leaving: list[tuple[dist.Work, Tensor, int]] = []
        self._free: list[Tensor] = []
        self._made = 0

    def send(self, message: Tensor, stage: int) -> None:
        """Start sending `message` to `stage` and return at once. Raises PeerLost if the rank there is gone."""
        assert tuple(message.shape) == self._shape, f"message {tuple(message.shape)} is not {self._shape}"
        message = message.detach().contiguous()
        with self._naming(stage):
            work = dist.isend(message, self._peer(stage))
        assert work is not None, "this rank is in the world group"
        self._leaving = [item for item in self._leaving if not item[0].is_completed()]
        self._leaving.append((work, message, stage))

    def start_receive(self, stage: int) -> Callable[[], Tensor]:
        """Begin to receive the next message from `stage`; returns what waits for it.

        Both raise PeerLost if the rank there is gone, or stays silent.
        """
        message = self._free.pop() if self._free else self._make()
        with self._naming(stage):
            work = dist.irecv(message, self._peer(stage))
        assert work is not None, "this rank is in the world group"

        def wait() -> Tensor:
            with self._naming(stage):
                work.wait()
            return message

        return wait

    def reuse(self, message: Tensor) -> None:
        """Receive something else into the memory of `message`, which nobody reads again."""
        if len(self._free) < self._made:
            self._free.append(message.detach())

    def _make(self) -> Tensor:
        self._made += 1
        return torch.empty(self._shape, dtype=self._dtype, device=self._device)

    def drain(self) -> None:
        """Wait until everything sent has gone."""
        for work, _, stage in self._leaving:
            with self._naming(stage):
                work.wait()
        self._leaving.clear()

    def _peer(self, stage: int) -> int:
        return self._groups.topology.peer(self._groups.rank, stage)

    @contextmanager
    def _naming(self, stage: int) -> Iterator[None]:
        """Say which rank was lost, where torch says only that a connection was."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            peer, own = self._peer(stage), self._groups.rank
            raise PeerLost(
                f"rank {peer} (stage {stage}) is lost to rank {own}, which waits for it: {reason}"
            ) from error
