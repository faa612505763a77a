"""A process that trains when it is told to: one rank of an engine, orders on stdin, one JSON line per answer on stdout.

Orders are JSON lines: {"do": "probe"}, {"do": "steps", "first": n, "count": k}, and what the engine adds. It says
{"ready": ...} once, then answers a probe with {"gflops": ...} and each step with {"step", "seconds",
"peak_memory_bytes", ...}; {"error": line} is its last word. What libraries print goes to stderr. Ends when stdin does.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
import torch.distributed as dist

Step = Callable[[int], dict[str, Any]]
Answer = Callable[[dict[str, Any]], dict[str, Any]]
Serve = Callable[..., None]

PROBE_ROWS = 1024
PROBE_TIMES = 3


class Refused(Exception):
    """This engine does not do what was asked of it; the message is the whole explanation."""


@dataclass(frozen=True)
class Setup:
    """What one rank is to train: its place, and the run's configuration as plain tables."""

    rank: int
    world_size: int
    init_method: str
    config: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """The rank's own: its GPU, or the CPU."""
        on_gpu = self.config["launch"]["device"] == "cuda"
        return torch.device("cuda", self.rank) if on_gpu else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix multiplications."""
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[self.config["train"]["precision"]]

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one replica per step."""
        train = self.config["train"]
        return int(train["global_batch"]) // (int(train["micro_batch"]) * int(self.config["parallel"]["dp"]))

    def batches(self, step: int, replica: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Tokens and targets, int64 [b, s], of a replica's micro-batches in `step` (from 1), as our engine has them."""
        train, dp = self.config["train"], self.config["parallel"]["dp"]
        rows, first = train["micro_batch"], (step - 1) * train["global_batch"]
        starts = [first + (index * dp + replica) * rows for index in range(self.micro_batches)]
        return [self._batch(range(start, start + rows)) for start in starts]

    def _batch(self, samples: range) -> tuple[torch.Tensor, torch.Tensor]:
        vocab, sequence = self.config["model"]["vocab"], self.config["data"]["sequence"]
        drawn = [np.random.default_rng(sample).integers(vocab, size=sequence + 1) for sample in samples]
        tokens = torch.from_numpy(np.stack(drawn)).to(self.device)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def refuse_unless(self, holds: bool, explanation: str) -> None:
        """Raise Refused with the explanation."""
        if not holds:
            raise Refused(explanation)

    @contextmanager
    def world(self, even_alone: bool = False) -> Iterator[None]:
        """The torch.distributed world of the ranks, for engines that don't join one themselves; one rank needs none."""
        if self.world_size == 1 and not even_alone:
            yield
            return
        dist.init_process_group(
            {"cuda": "nccl", "cpu": "gloo"}[self.device.type],
            init_method=self.init_method,
            rank=self.rank,
            world_size=self.world_size,
            timeout=timedelta(seconds=self.config["launch"]["timeout_seconds"]),
        )
        try:
            yield
        finally:
            dist.destroy_process_group()


def work(run: Callable[[Setup, Serve], None], setup_text: str) -> None:
    """Be one rank: `run(setup, serve)` builds the engine and calls `serve(step, about, answer)`.

    `step(number)` trains one optimizer step and returns what it has to tell; `about` is told once, when ready;
    `answer(order)` handles orders of the engine's own.
    """
    answers = _keep_stdout()
    try:
        setup = Setup(**json.loads(setup_text))
        torch.set_num_threads(setup.config["launch"]["threads"])
        torch.manual_seed(setup.config["train"]["seed"])
        if setup.device.type == "cuda":
            torch.cuda.set_device(setup.device)
        run(setup, lambda step, about=None, answer=_no_answer: _serve(setup, answers, step, about or {}, answer))
    except BaseException as error:
        name = "" if isinstance(error, Refused) else f"{type(error).__name__}: "
        _tell(answers, {"error": name + (str(error).strip().splitlines() or ["no message"])[-1]})
        raise


def _serve(setup: Setup, answers: TextIO, step: Step, about: dict[str, Any], answer: Answer) -> None:
    _tell(answers, {"ready": about})
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "probe":
            _tell(answers, {"gflops": probe(setup.dtype, setup.device)})
        elif order["do"] == "steps":
            for number in range(order["first"], order["first"] + order["count"]):
                _tell(answers, _timed(step, number, setup.device))
        else:
            _tell(answers, answer(order))


def _no_answer(order: dict[str, Any]) -> dict[str, Any]:
    raise Refused(f"this engine knows no order {order['do']!r}")


def _timed(step: Step, number: int, device: torch.device) -> dict[str, Any]:
    _finish(device)
    start = time.perf_counter()
    told = step(number)
    _finish(device)
    seconds = time.perf_counter() - start
    return {"step": number, "seconds": seconds, "peak_memory_bytes": peak_memory_bytes(device), **told}


def probe(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of a square matmul of 1,024 rows, the best of three: what the machine gives this rank just now."""
    left, right, out = (torch.ones(PROBE_ROWS, PROBE_ROWS, dtype=dtype, device=device) for _ in range(3))
    best = float("inf")
    for _ in range(PROBE_TIMES):
        _finish(device)
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        _finish(device)
        best = min(best, time.perf_counter() - start)
    return 2e-9 * PROBE_ROWS**3 / best


def peak_memory_bytes(device: torch.device) -> int:
    """The most this process has held: allocated on its GPU, or resident on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent had held before it started this program
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(fields["VmHWM"].split()[0]) << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _keep_stdout() -> TextIO:
    """The real stdout for answers; from here on, whatever prints writes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _tell(answers: TextIO, line: dict[str, Any]) -> None:
    answers.write(json.dumps(line) + "\n")
    answers.flush()
