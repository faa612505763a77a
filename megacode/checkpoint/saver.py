"""Saving beside training: the step waits for a copy of the state to host memory, a thread of each rank writes it.

No collective is used, so the writers cannot come between the training's own. Rank 0's thread waits for all parts and
commits. A failure is told in the outcome and the run goes on; the next save waits for the one before. Checksums and
writing leave Python's lock, so the steps hardly feel the thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import torch
from torch import Tensor

from megacode.checkpoint.agree import first_failure
from megacode.checkpoint.errors import CheckpointError, Fenced
from megacode.checkpoint.fence import Fence
from megacode.checkpoint.folders import aside_folder, asides_before, commit, committed_folder, drop, prune
from megacode.checkpoint.manifest import Manifest, RunState
from megacode.checkpoint.portions import HostCopy, OwnShare
from megacode.checkpoint.save import (
    announce,
    announce_failure,
    collect_parts,
    rank_file,
    write_file,
    write_manifest,
)
from megacode.config.schema import CheckpointConfig
from megacode.optim.adamw import ShardedAdamW
from megacode.parallel.collectives import broadcast_
from megacode.parallel.groups import Groups


@dataclass(frozen=True)
class SaveOutcome:
    """What became of a save, on this rank: on rank 0 of the whole checkpoint, elsewhere of the rank's own part.

    `stall_seconds`: what the step waited, of them `copy_seconds` for the copy and the rest for the save before.
    `write_seconds`: from then to the end. `bytes`: of the whole checkpoint. `failure`: why there is none, or empty.
    """

    step: int
    stall_seconds: float
    copy_seconds: float
    write_seconds: float = 0.0
    bytes: int = 0
    failure: str = ""


class Saver:
    """Saves one rank's state; every rank has one, and calls `save` and `finish` at the same steps.

    `fenced`: another start of the run owns the folder now; nothing can be saved any more.
    """

    def __init__(
        self,
        folder: Path,
        optimizer: ShardedAdamW,
        groups: Groups,
        config: CheckpointConfig,
        patience: float,
        fence: Fence | None = None,
    ) -> None:
        """Give rank 0 the `fence` that it claimed. `patience`: seconds that it waits for the others' parts."""
        self._folder, self._groups, self._config, self._patience = folder, groups, config, patience
        assert (groups.rank == 0) == (fence is not None), "rank 0 claims the folder"
        self._fence, self._device = fence, optimizer.state["master"].device
        token = torch.tensor([fence.owner.token if fence else 0], device=self._device)
        self._token = int(broadcast_(token, groups.world, 0).item())
        self._share = OwnShare(optimizer, groups)
        self._copy = HostCopy(self._share) if config.background else None
        self._thread: threading.Thread | None = None
        self._outcomes: SimpleQueue[SaveOutcome] = SimpleQueue()
        self._last_failure = ""
        self.fenced = False

    def save(self, step: int, state: Callable[[], RunState]) -> None:
        """Begin to save step `step`; waits for the save before, and for the copy to host memory.

        `state` is asked for by rank 0 while the steps go on, so it must be a thing that no step changes.
        """
        began = time.perf_counter()
        self._wait()
        if self._copy is None:
            ended = self._work(SaveOutcome(step, 0.0, 0.0), state, self._share.values())
            self._outcomes.put(replace(ended, stall_seconds=time.perf_counter() - began))
            return
        waited = time.perf_counter()
        self._copy.take()
        now = time.perf_counter()
        begun, values = SaveOutcome(step, now - began, now - waited), self._copy.values()
        self._thread = threading.Thread(
            target=lambda: self._outcomes.put(self._work(begun, state, values)),
            name=f"checkpoint of step {step}",
            daemon=True,
        )
        self._thread.start()

    def outcomes(self) -> list[SaveOutcome]:
        """The saves that have ended since this was last asked."""
        return [self._outcomes.get() for _ in range(self._outcomes.qsize())]

    def finish(self) -> None:
        """Wait for the last save; every rank calls it. Raises CheckpointError on all ranks if it failed on any."""
        self._wait()
        failure = first_failure(self._groups, self._device, self._last_failure)
        if failure:
            raise CheckpointError(f"the last checkpoint was not saved: {failure}")

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self, begun: SaveOutcome, state: Callable[[], RunState], values: Iterable[Tensor]) -> SaveOutcome:
        """Write, and on rank 0 commit; never raises."""
        aside = aside_folder(self._folder, begun.step, self._token)
        start = time.perf_counter()
        size, failure = 0, ""
        try:
            self._write_own(aside, values)
            if self._fence is not None:
                size = self._commit(aside, state(), self._fence).bytes
        except Exception as error:
            # Whatever it is, the run goes on, and the one who looks at it is told.
            self.fenced = self.fenced or isinstance(error, Fenced)
            failure = str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
            failure = self._tell_others(aside, failure)
        self._last_failure = failure
        seconds = time.perf_counter() - start
        return replace(begun, write_seconds=seconds, bytes=size, failure=failure)

    def _write_own(self, aside: Path, values: Iterable[Tensor]) -> None:
        if self._fence is not None:
            self._fence.check()
        aside.mkdir(parents=True, exist_ok=True)
        rank, share = self._groups.rank, self._share
        announce(aside, rank, write_file(aside, rank_file(rank), share.portions, share.kinds, "F32", values))

    def _commit(self, aside: Path, state: RunState, fence: Fence) -> Manifest:
        parts = collect_parts(aside, self._groups.world.size, self._patience, fence.check)
        state = replace(state, run=fence.owner.run, restart=fence.owner.restart)
        manifest = write_manifest(aside, state, self._share.kinds, parts)
        with fence.held():
            commit(aside, committed_folder(self._folder, state.step))
            prune(self._folder, state.step, self._config.keep, self._config.keep_every)
        # What failed before can go: every rank has left it behind. Some may be at the next one already.
        drop(asides_before(self._folder, state.step))
        return manifest

    def _tell_others(self, aside: Path, failure: str) -> str:
        """Rank 0 removes the whole attempt; another rank tells rank 0, as well as it can. Returns the failure."""
        if self._fence is not None:
            drop([aside])
            return failure
        try:
            announce_failure(aside, self._groups.rank, failure)
        except OSError as error:
            return f"{failure}; and rank 0 could not be told ({error})"
        return failure
