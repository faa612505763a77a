"""The stages on this machine, in as many processes as it has cores.

datatrove's local executor with another pool: its own waits for ever for a task whose process was killed, for want of
memory say, and leaves processes behind when it is killed itself.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor

from megacode.console import progress
from megacode.data.errors import DataError
from megacode.data.prepare.executors.step import quiet, steps_of
from megacode.data.prepare.plan import Plan
from megacode.data.prepare.stages.chain import chain

MODULE = __name__


class LocalExecutor(LocalPipelineExecutor):
    """Runs the tasks of one stage that are not complete yet, and calls `advance(1)` after each."""

    def run_tasks(self, advance: Callable[[int], None]) -> None:
        """Raises the error of the first task that failed, DataError when a process was killed."""
        ranks = self.get_incomplete_ranks()
        advance(self.tasks - len(ranks))
        if self.workers == 1 or len(ranks) <= 1:
            for rank in ranks:
                self._run_for_rank(rank)
                advance(1)
            return
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([MODULE])
        with ProcessPoolExecutor(min(self.workers, len(ranks)), context, _end_with_parent) as pool:
            futures = [pool.submit(_task, self, rank) for rank in ranks]
            for future in futures:
                future.add_done_callback(lambda done: None if done.cancelled() or done.exception() else advance(1))
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        _raise_first(futures)

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        # datatrove tells stderr whatever it writes to the task's log.
        with contextlib.redirect_stderr(io.StringIO()):
            return super()._run_for_rank(rank, local_rank, node_rank)


def run_local(plan: Plan, workers: int) -> None:
    """Run all stages of the plan; what an earlier start has completed is not done again."""
    quiet()
    for number, stage in enumerate(stages := chain(plan), start=1):
        executor = LocalExecutor(
            steps_of(plan, stage),
            tasks=stage.tasks,
            workers=min(workers, stage.tasks),
            logging_dir=str(plan.logs / stage.log),
        )
        with progress(f"{number}/{len(stages)} {stage.name}", stage.tasks) as advance:
            executor.run_tasks(advance)


def _task(executor: LocalExecutor, rank: int) -> None:
    """Run one task in a process of the pool."""
    executor._run_for_rank(rank)


def _end_with_parent() -> None:
    """End this process as soon as the one that started the pool is gone, killed without a word to us."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _raise_first(futures: list[Future[None]]) -> None:
    """Raise the first failed task's own error, else the loss of a process."""
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in errors:
        if not isinstance(error, BrokenProcessPool):
            raise error
    if errors:
        raise DataError(
            "a process of the preparation was killed, perhaps for want of memory; give executor.workers=1, or more "
            "memory, and start again: what is complete is kept"
        ) from errors[0]
