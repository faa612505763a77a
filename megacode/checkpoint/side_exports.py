"""Hugging Face folders made beside training: of every n-th step's checkpoint, in a process of low priority.

Rank 0 tells of each checkpoint when it is committed. Its files are linked into a folder of their own first, so it may
be removed meanwhile. One export runs at a time, and one waits: the newest. A failure is told and never ends the run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from megacode import console

_LINKED = ".linked-"
_LOWEST_PRIORITY = 19


class _Job(NamedTuple):
    step: int
    source: Path
    out: Path


class SideExports:
    """The exports of a run, into `RUN/exports/step-NNNNNNNN/`. `every` n steps; 0 makes none, and does nothing."""

    def __init__(
        self, run: Path, every: int, tell: Callable[[str], None] = console.say, python: str = sys.executable
    ) -> None:
        self.run, self._folder = run, run / "exports"
        self._every, self._tell, self._python = every, tell, python
        self._lock = threading.Lock()
        self._waiting: _Job | None = None
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[str] | None = None
        self._is_over = False
        for leftover in self._folder.glob(f"{_LINKED}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def is_due(self, step: int) -> bool:
        """Whether the checkpoint of `step` is to be exported; the run must then make one."""
        return self._every > 0 and step % self._every == 0

    def committed(self, checkpoint: Path, step: int) -> None:
        """Export the checkpoint of `step` where it is due; returns as soon as its files are linked."""
        if not self.is_due(step):
            return
        out = self._folder / f"step-{step:08d}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            job = _Job(step, self._link(checkpoint, step), out)
        except OSError as error:
            self._tell(f"export of step {step} failed: {error}")
            return
        with self._lock:
            passed_over, self._waiting = self._waiting, job
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="exports", daemon=True)
                self._thread.start()
        if passed_over:
            self._tell(f"export of step {passed_over.step} left out: the one before takes longer than the steps")
            self._forget(passed_over)

    def finish(self, wait: bool = True) -> None:
        """Wait for the exports that have begun or are to begin; without `wait`, end them and say so."""
        with self._lock:
            thread, process = self._thread, self._process
            if not wait:
                self._is_over, left_out, self._waiting = True, self._waiting, None
                if process is not None:
                    process.terminate()
        if not wait and left_out:
            self._tell(f"export of step {left_out.step} left out: the run was asked to stop")
            self._forget(left_out)
        if thread is not None:
            thread.join()

    def _link(self, checkpoint: Path, step: int) -> Path:
        """A folder with the same files, which stays when the checkpoint is removed; itself where links cannot be."""
        linked = self._folder / f"{_LINKED}{step:08d}"
        shutil.rmtree(linked, ignore_errors=True)
        try:
            shutil.copytree(checkpoint, linked, copy_function=os.link)
        except shutil.Error as error:
            shutil.rmtree(linked, ignore_errors=True)
            if not checkpoint.is_dir():
                raise OSError(f"{checkpoint} is gone already") from error
            return checkpoint
        return linked

    def _forget(self, job: _Job) -> None:
        if job.source.name.startswith(_LINKED):
            shutil.rmtree(job.source, ignore_errors=True)

    def _work(self) -> None:
        """One export after the other, until none waits."""
        while True:
            with self._lock:
                job, self._waiting = self._waiting, None
                if job is None:
                    self._thread = None
                    return
            try:
                failure = self._export(job)
            except OSError as error:
                failure = str(error)
            self._forget(job)
            self._tell(f"export of step {job.step} failed: {failure}" if failure else f"exported {job.out}")

    def _export(self, job: _Job) -> str:
        """Run `megacode export`; returns why it failed, or the empty string."""
        command = [self._python, "-m", "megacode", "export", str(job.source), "--out", str(job.out)]
        with self._lock:
            if self._is_over:
                return "the run was asked to stop"
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            self._process = process
        with contextlib.suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, process.pid, _LOWEST_PRIORITY)
        _, said = process.communicate()
        with self._lock:
            self._process = None
        if process.returncode == 0:
            return ""
        return "the run was asked to stop" if self._is_over else (said.strip() or f"exit code {process.returncode}")
