"""The ranks of one contender, as processes of this machine that stay and take orders (see peers/worker.py)."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from megacode.errors import MegacodeError
from megacode.prove.bench.contenders import Contender

_BYTES_AT_ONCE = 1 << 16


class ContenderFailed(MegacodeError):
    """A rank failed, died or stayed silent; the message is one line."""


class World:
    """Started ranks of one contender."""

    def __init__(self, contender: Contender, environment: Mapping[str, str], scratch: Path) -> None:
        self._timeout = float(contender.config.launch.timeout_seconds)
        world_size = contender.config.parallel.world_size
        setup = {
            "world_size": world_size,
            "init_method": f"file://{scratch / 'store'}",
            "config": contender.config.model_dump(mode="json"),
        }
        self._errors = [scratch / f"rank{rank}.txt" for rank in range(world_size)]
        self._told: list[bytes] = [b""] * world_size
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        for rank in range(world_size):
            self._ranks.append(self._start(contender, {"rank": rank, **setup}, environment))
            self._selector.register(_pipe(self._ranks[rank].stdout), selectors.EVENT_READ, rank)

    def _start(
        self, contender: Contender, setup: dict[str, Any], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with self._errors[setup["rank"]].open("wb") as errors:
            return subprocess.Popen(
                [*contender.command, json.dumps(setup)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(contender, environment),
            )

    def ask(self, order: Mapping[str, Any], answers: int = 1) -> list[list[dict[str, Any]]]:
        """Give all ranks an order and wait for so many answers of each; by rank. Raises ContenderFailed."""
        for rank, process in enumerate(self._ranks):
            self._order(rank, process, order)
        return self.answers(range(len(self._ranks)), answers)

    def ask_first(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Give rank 0 alone an order, and return its answer. Raises ContenderFailed."""
        self._order(0, self._ranks[0], order)
        return self.answers(range(1), 1)[0][0]

    def answers(self, ranks: range, count: int) -> list[list[dict[str, Any]]]:
        """The next `count` answers of each of `ranks`. Raises ContenderFailed for the first rank that fails."""
        found: list[list[dict[str, Any]]] = [[] for _ in ranks]
        deadline = time.monotonic() + self._timeout
        while True:
            for rank in ranks:
                self._take(rank, found[rank], count)
            missing = [rank for rank in ranks if len(found[rank]) < count]
            if not missing:
                return found
            ready = self._selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise ContenderFailed(f"ranks {missing} have been silent for {self._timeout:.0f} s")
            deadline = time.monotonic() + self._timeout
            for key, _ in ready:
                self._read(key.data, key.fd)

    def close(self) -> None:
        """End the ranks at once."""
        for process in self._ranks:
            process.kill()
        for process in self._ranks:
            process.wait()
            for stream in (process.stdin, process.stdout):
                # What was not yet written is for a process that is gone.
                try:
                    _pipe(stream).close()
                except BrokenPipeError:
                    continue
        self._selector.close()

    def _order(self, rank: int, process: subprocess.Popen[bytes], order: Mapping[str, Any]) -> None:
        stdin = _pipe(process.stdin)
        try:
            stdin.write(json.dumps(order).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise ContenderFailed(self._obituary(rank)) from None

    def _read(self, rank: int, descriptor: int) -> None:
        data = os.read(descriptor, _BYTES_AT_ONCE)
        if not data:
            raise ContenderFailed(self._obituary(rank))
        self._told[rank] += data

    def _take(self, rank: int, found: list[dict[str, Any]], count: int) -> None:
        while len(found) < count and b"\n" in self._told[rank]:
            line, _, self._told[rank] = self._told[rank].partition(b"\n")
            told = json.loads(line)
            if "error" in told:
                raise ContenderFailed(f"rank {rank}: {told['error']}" if len(self._ranks) > 1 else told["error"])
            found.append(told)

    def _obituary(self, rank: int) -> str:
        """How a rank ended that could not say so itself, with the last line it wrote to stderr."""
        code = self._ranks[rank].wait()
        lines = self._errors[rank].read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"rank {rank} died with exit code {code}" + (f": {lines[-1].strip()}" if lines else "")


@contextmanager
def started(contender: Contender, environment: Mapping[str, str]) -> Iterator[World]:
    """The contender's ranks while the block runs; they may still be on their way. Raises ContenderFailed."""
    with TemporaryDirectory(prefix="megacode-bench-") as scratch:
        try:
            world = World(contender, environment, Path(scratch))
        except OSError as error:
            raise ContenderFailed(f"{contender.command[0]} cannot be started: {error.strerror}") from error
        try:
            yield world
        finally:
            world.close()


def _environment(contender: Contender, given: Mapping[str, str]) -> dict[str, str]:
    """Ours gets what we got; a peer's interpreter finds its own packages and the files beside its driver."""
    foreign = () if contender.is_ours else ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONHOME", "VIRTUAL_ENV")
    launch = contender.config.launch
    kept = {name: value for name, value in given.items() if name not in foreign}
    kept |= {"OMP_NUM_THREADS": str(launch.threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    # Megatron-core asks for the second; without it, tensor parallelism may overlap in the wrong order.
    return kept | ({"CUDA_VISIBLE_DEVICES": ""} if launch.device == "cpu" else {"CUDA_DEVICE_MAX_CONNECTIONS": "1"})


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "started with pipes"
    return stream
