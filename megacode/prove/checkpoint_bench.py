"""What a save costs here: how long a step waits for it, beside and without a thread, and how fast the disk takes it.

The state is that of a made-up decoder of the size that was asked for, on one process. Saves with and without a thread
take turns, so that the machine's moods meet both.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from megacode import console
from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.fence import Fence
from megacode.checkpoint.folders import find_checkpoint
from megacode.checkpoint.manifest import KINDS, RunState
from megacode.checkpoint.read import CheckpointReader
from megacode.checkpoint.restore import load_shard
from megacode.checkpoint.saver import SaveOutcome, Saver
from megacode.config.load import parse_config
from megacode.config.schema import CheckpointConfig, RunConfig
from megacode.kernels.dispatch import choose
from megacode.model.stage import Stage
from megacode.optim.adamw import ShardedAdamW
from megacode.parallel.groups import single_rank

MOST_STALL = 0.15  # of a save without a thread
_BYTES_PER_PARAMETER = 4 * len(KINDS)
_HIDDEN, _VOCAB, _CONTEXT = 1024, 8192, 1024
_PATIENCE = 600.0


@dataclass(frozen=True)
class CheckpointBench:
    """Medians over `rounds` saves of `bytes`, in seconds.

    `stall`: what a step waits for a save beside training; `write`: what the thread then takes; `synchronous`: a save
    that the step waits for as a whole; `read`: loading and checking all of it.
    """

    bytes: int
    rounds: int
    stall: float
    write: float
    synchronous: float
    read: float

    @property
    def share(self) -> float:
        """The stall, of the save that is waited for."""
        return self.stall / self.synchronous


def bench_checkpoint(state_bytes: int, rounds: int, folder: Path) -> CheckpointBench:
    """Save a state of about `state_bytes` so many times each way below `folder`, and remove it."""
    groups, device = single_rank(), torch.device("cpu")
    kernels = choose("torch", "cpu")
    config = _config(state_bytes)
    torch.set_num_threads(config.launch.threads)  # as a run does
    optimizer = ShardedAdamW(Stage(config, groups, kernels, device).specs(), groups, config.optim, kernels)
    outcomes: dict[bool, list[SaveOutcome]] = {True: [], False: []}
    reads = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        run = Path(scratch)
        fence = Fence.claim(run)
        savers = {
            background: Saver(run, optimizer, groups, _keeping_one(config, background), _PATIENCE, fence)
            for background in (True, False)
        }
        with console.progress("saving", 2 * rounds) as advance:
            for step in range(1, 2 * rounds + 1):
                background = step % 2 == 1
                outcomes[background] += _save(savers[background], step)
                advance(1)
        for _ in range(rounds):
            began = time.perf_counter()
            load_shard(CheckpointReader(find_checkpoint(run)), optimizer, groups, KINDS)
            reads.append(time.perf_counter() - began)
    return CheckpointBench(
        bytes=outcomes[True][0].bytes,
        rounds=rounds,
        stall=median(one.stall_seconds for one in outcomes[True]),
        write=median(one.write_seconds for one in outcomes[True]),
        synchronous=median(one.stall_seconds for one in outcomes[False]),
        read=median(reads),
    )


def render_checkpoint_bench(found: CheckpointBench) -> str:
    """A line for each number."""
    rows = (
        (f"{found.bytes / 1e9:.2f} GB", f"of state, median of {found.rounds}"),
        _row(found, found.synchronous, "a step waits for a save without a thread"),
        _row(found, found.stall, f"a step waits for a save beside training: {found.share:.1%} of that"),
        _row(found, found.write, "the thread then takes"),
        _row(found, found.read, "loading and checking it takes"),
    )
    return "\n".join(f"{number:>9}  {words}" for number, words in rows)


def _row(found: CheckpointBench, seconds: float, words: str) -> tuple[str, str]:
    return f"{seconds:.3f} s", f"{words} ({found.bytes / seconds / 1e9:.2f} GB/s)"


def _save(saver: Saver, step: int) -> Sequence[SaveOutcome]:
    saver.save(step, lambda: RunState(step, 0, {}, ""))
    saver.finish()
    ended = saver.outcomes()
    if failures := [one.failure for one in ended if one.failure]:
        raise CheckpointError(failures[0])
    return ended


def _config(state_bytes: int) -> RunConfig:
    """A decoder whose weights and moments are about so many bytes."""
    parameters = state_bytes // _BYTES_PER_PARAMETER - (_VOCAB + _CONTEXT) * _HIDDEN
    layers = max(1, round(parameters / (10.1 * _HIDDEN**2)))
    return parse_config(
        {
            "model": {"layers": layers, "hidden": _HIDDEN, "heads": 16, "vocab": _VOCAB, "context": _CONTEXT},
            "data": {"train": "none", "tokenizer": "none", "sequence": _CONTEXT},
            "optim": {"lr": 1e-4},
            "train": {"steps": 1, "global_batch": 1, "precision": "fp32"},
            "launch": {"device": "cpu"},
        },
        "checkpoint bench",
    )


def _keeping_one(config: RunConfig, background: bool) -> CheckpointConfig:
    return config.checkpoint.model_copy(update={"background": background, "keep": 1})
