"""Runs a function on every rank of a CPU world on this machine.

The ranks are forked from a server process that has imported torch, so they start in a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from megacode.errors import MegacodeError

_PRELOADED = ("torch", "torch.distributed", "torch.optim.adamw", "numpy", "megacode.train.loop")


class RankFailure(MegacodeError):
    """A rank raised, died or stayed silent; the message says which, and shows its traceback."""


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any, timeout: float = 120.0) -> list[Any]:
    """`function(rank, world_size, init_method, *arguments)` on every rank; returns the results by rank.

    `function` must be importable by its module's name. Raises RankFailure for the first rank that fails.
    """
    with started_ranks(world_size, function, *arguments) as (ranks, receivers):
        return _collect(receivers, ranks, time.monotonic() + timeout)


@contextmanager
def started_ranks(
    world_size: int, function: Callable[..., Any], *arguments: Any
) -> Iterator[tuple[list[Any], list[Connection]]]:
    """Start the ranks and yield their processes and result pipes; at the end of the block they are killed (-9)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    with tempfile.TemporaryDirectory() as scratch:
        init_method = f"file://{Path(scratch) / 'store'}"
        pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
        ranks = [
            context.Process(target=_work, args=(rank, world_size, init_method, function, arguments, pipes[rank][1]))
            for rank in range(world_size)
        ]
        for rank in ranks:
            rank.start()
        for _, sender in pipes:
            sender.close()
        try:
            yield ranks, [receiver for receiver, _ in pipes]
        finally:
            for rank in ranks:
                rank.kill()
            for rank in ranks:
                rank.join()


def _work(
    rank: int, world_size: int, init_method: str, function: Callable[..., Any], arguments: Any, results: Connection
) -> None:
    import torch

    torch.set_num_threads(1)
    try:
        results.send((True, function(rank, world_size, init_method, *arguments)))
    except BaseException as error:  # whatever it is, the parent raises it for this rank
        results.send((False, "".join(traceback.format_exception(error))))


def _collect(receivers: list[Connection], ranks: list[Any], deadline: float) -> list[Any]:
    answers: dict[int, Any] = {}
    waiting = dict(zip(receivers, range(len(receivers)), strict=True))
    while waiting:
        ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankFailure(f"ranks {sorted(waiting.values())} are silent")
        for receiver in ready:
            rank = waiting.pop(receiver)  # type: ignore[index]
            try:
                well, value = receiver.recv()  # type: ignore[union-attr]
            except EOFError:
                ranks[rank].join()
                raise RankFailure(f"rank {rank} died with exit code {ranks[rank].exitcode}") from None
            if not well:
                raise RankFailure(f"rank {rank} failed:\n{value}")
            answers[rank] = value
    return [answers[rank] for rank in range(len(ranks))]
