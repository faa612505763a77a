"""Messages between CPU ranks over plain TCP sockets, sent and received by the thread that computes.

gloo hands every message to a thread of its own, which on a busy machine waits for a core: 1 to 2 ms a collective where
the message itself takes 0.05 ms (docs/tried.md). Tensor parallelism does dozens of collectives per micro-batch, so on
the CPU they run here. A sum is taken in the order of ranks and in fp32, so it is rounded once and is the same bits on
every rank.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from megacode.errors import MegacodeError

_HEADER = struct.Struct("!16sii")  # token of the world, number of the group, index of the sender in it
_WHOLE_BYTES = 1 << 16
_PIECE_ELEMENTS = 1 << 20
_INTRODUCTION_SECONDS = 10.0


class PeerLost(MegacodeError):
    """A rank closed its connection or stayed silent; the message names it."""


class Listener:
    """This rank's door: others connect to `port` and say for which group. `token` keeps strangers out."""

    def __init__(self, token: bytes, timeout_seconds: float) -> None:
        self._door = socket.create_server(("", 0), backlog=4096)
        self._door.settimeout(timeout_seconds)
        self._token = token
        self._waiting: dict[tuple[int, int], socket.socket] = {}

    @property
    def port(self) -> int:
        """The TCP port."""
        port: int = self._door.getsockname()[1]
        return port

    def accept(self, group: int, index: int) -> socket.socket:
        """The connection from member `index` of `group`, waiting for it if need be."""
        while (group, index) not in self._waiting:
            connection, _ = self._door.accept()
            token, for_group, sender = _HEADER.unpack(_introduction(connection))
            if token == self._token:
                self._waiting[for_group, sender] = connection
            else:
                connection.close()
        return self._waiting.pop((group, index))

    def close(self) -> None:
        """Take no more connections."""
        self._door.close()


def connect(address: tuple[str, int], token: bytes, group: int, index: int, timeout_seconds: float) -> socket.socket:
    """Knock at another rank's door as member `index` of `group`."""
    connection = socket.create_connection(address, timeout_seconds)
    connection.sendall(_HEADER.pack(token, group, index))
    return connection


@dataclass(eq=False)
class _Exchange:
    """What has still to leave for each member, and to come from each."""

    leaving: dict[int, memoryview]
    coming: dict[int, memoryview]


class Mesh:
    """Connections from this rank, member `index` of a group, to every other member.

    `names` says who the members are, for error messages.
    """

    def __init__(
        self, connections: Mapping[int, socket.socket], index: int, names: Sequence[str], timeout_seconds: float
    ) -> None:
        self._connections, self._index, self._names = connections, index, names
        self._timeout = timeout_seconds
        self._begun: list[_Exchange] = []
        for connection in connections.values():
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)

    @property
    def size(self) -> int:
        """Members of the group."""
        return len(self._names)

    def all_gather(self, own: Tensor) -> Tensor:
        """Every rank's `own` [...], by rank: [size, ...]."""
        parts = own.new_empty(self.size, *own.shape)
        self.start_all_gather_into(parts, own.contiguous())()
        return parts

    def start_all_gather_into(self, parts: Tensor, own: Tensor) -> Callable[[], None]:
        """Begin to fill the contiguous `parts` [size, ...] with every rank's contiguous `own` [...].

        What it returns waits for the end. Whatever was begun is ended in the same order, by all members alike.
        """
        parts[self._index].copy_(own)
        return self._start([own] * self.size, list(parts))

    def start_reduce_scatter(self, parts: Tensor) -> Callable[[], Tensor]:
        """Begin to sum, over all ranks, their part number `index` of `parts` [size, ...], each of them contiguous."""
        received = torch.empty_like(parts)
        received[self._index].copy_(parts[self._index])
        finish = self._start(list(parts), list(received))

        def wait() -> Tensor:
            finish()
            return _sum(received)

        return wait

    def all_sum_(self, x: Tensor) -> Tensor:
        """Sum over the group, in place and piece by piece, so that no second tensor of its size is needed."""
        assert x.is_contiguous(), "pieces are views"
        for piece in torch.split(x.view(-1), _PIECE_ELEMENTS):
            self._sum_piece_(piece)
        return x

    def start_reduce_scatter_(self, parts: Tensor) -> Callable[[], Tensor]:
        """`start_reduce_scatter` of `parts` [size, n] in place: this rank's part becomes the sum.

        A large one is done when it is waited for, piece by piece, so that no second tensor of its size is needed.
        """
        own = parts[self._index]
        if len(own) > _PIECE_ELEMENTS:
            return partial(self._reduce_scatter_pieces_, parts)
        finish = self.start_reduce_scatter(parts)
        return lambda: own.copy_(finish())

    def _reduce_scatter_pieces_(self, parts: Tensor) -> Tensor:
        own = parts[self._index]
        for start in range(0, len(own), _PIECE_ELEMENTS):
            piece = slice(start, start + _PIECE_ELEMENTS)
            own[piece] = self.start_reduce_scatter(parts[:, piece])()
        return own

    def _sum_piece_(self, x: Tensor) -> None:
        """Sum a flat `x` over the group: whole where it is small, otherwise each rank a share."""
        if self.size == 2 or x.numel() * x.element_size() <= _WHOLE_BYTES:
            x.copy_(_sum(self.all_gather(x)))
            return
        share = -(-x.numel() // self.size)
        padded = x.new_zeros(self.size * share)
        padded[: x.numel()].copy_(x)
        parts = padded.view(self.size, share)
        own = self.start_reduce_scatter(parts)()
        self.start_all_gather_into(parts, own)()
        x.copy_(padded[: x.numel()])

    def _start(self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor]) -> Callable[[], None]:
        """Begin to send `outgoing[i]` to member i and to fill `incoming[i]` from it, for all but this rank.

        Of what was begun before and is not ended, everything leaves first. Whatever the sockets take is gone at once.
        """
        exchange = _Exchange(
            {peer: _bytes_of(outgoing[peer]) for peer in self._connections},
            {peer: _bytes_of(incoming[peer]) for peer in self._connections},
        )
        self._begun.append(exchange)
        for one in self._begun:
            for peer in list(one.leaving):
                self._send(peer, one.leaving)
            if one.leaving:
                break
        return partial(self._finish, exchange)

    def _finish(self, exchange: _Exchange) -> None:
        """Send and receive until `exchange`, and all that was begun before it, has ended."""
        while exchange in self._begun:
            self._end(self._begun[0])
            self._begun.pop(0)

    def _end(self, exchange: _Exchange) -> None:
        leaving, coming = exchange.leaving, exchange.coming
        deadline = 0.0
        while leaving or coming:
            moved = [self._send(peer, leaving) for peer in list(leaving)]
            moved += [self._receive(peer, coming) for peer in list(coming)]
            if any(moved) or not (leaving or coming):
                deadline = 0.0
                continue
            deadline = deadline or time.monotonic() + self._timeout
            self._wait(leaving, coming, deadline)

    def _send(self, peer: int, leaving: dict[int, memoryview]) -> bool:
        try:
            sent = self._connections[peer].send(leaving[peer])
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._lost(peer, f"closed its connection ({error.strerror})") from error
        leaving[peer] = leaving[peer][sent:]
        if not leaving[peer]:
            del leaving[peer]
        return True

    def _receive(self, peer: int, coming: dict[int, memoryview]) -> bool:
        try:
            count = self._connections[peer].recv_into(coming[peer])
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._lost(peer, f"closed its connection ({error.strerror})") from error
        if count == 0:
            raise self._lost(peer, "closed its connection")
        coming[peer] = coming[peer][count:]
        if not coming[peer]:
            del coming[peer]
        return True

    def _wait(self, leaving: Mapping[int, memoryview], coming: Mapping[int, memoryview], deadline: float) -> None:
        poll = select.poll()
        for peer in {*leaving, *coming}:
            wanted = (select.POLLOUT if peer in leaving else 0) | (select.POLLIN if peer in coming else 0)
            poll.register(self._connections[peer], wanted)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1e3):
            raise self._lost(next(iter({**leaving, **coming})), f"was silent for {self._timeout:.0f} s")

    def _lost(self, peer: int, how: str) -> PeerLost:
        return PeerLost(f"{self._names[peer]} {how}, while {self._names[self._index]} waited for it")


def _sum(parts: Tensor) -> Tensor:
    """The sum over dim 0, in the order of ranks, rounded once."""
    if len(parts) == 2:
        return parts[0] + parts[1]
    if parts.dtype in (torch.bfloat16, torch.float16):
        return parts.sum(dim=0, dtype=torch.float32).to(parts.dtype)
    return parts.sum(dim=0)


def _bytes_of(tensor: Tensor) -> memoryview:
    assert tensor.is_contiguous(), "what is sent lies in one piece"
    raw: memoryview = tensor.detach().view(-1).view(torch.uint8).numpy().data
    return raw


def _introduction(connection: socket.socket) -> bytes:
    """What a caller says of itself; zeros from one that says too little, such as a port scanner."""
    connection.settimeout(_INTRODUCTION_SECONDS)
    said = b""
    try:
        while len(said) < _HEADER.size and (more := connection.recv(_HEADER.size - len(said))):
            said += more
    except OSError:
        return bytes(_HEADER.size)
    return said.ljust(_HEADER.size, b"\0")
