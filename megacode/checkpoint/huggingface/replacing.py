"""A folder is there whole or not at all: written aside, and renamed when it is complete. One process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.folders import flush_folder


@contextmanager
def replacing_folder(out: Path, may_replace: Callable[[Path], bool]) -> Iterator[Path]:
    """Give the block an empty folder to fill; at its end it becomes `out`, and after an exception it is removed.

    Raises CheckpointError if another process is writing `out`, or if it is there already, holds something, and
    `may_replace` says no.
    """
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or may_replace(out))):
        raise CheckpointError(f"{out}: is there already, and nothing that may be replaced; name another, or remove it")
    final = out.resolve()
    aside, old = (final.with_name(f".{final.name}.{ending}") for ending in ("partial", "old"))
    aside.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(aside, os.O_RDONLY)
    try:
        _lock(descriptor, aside, out)
        for leftover in aside.iterdir():  # of a process that was killed: it let go of the lock
            _remove(leftover)
        try:
            yield aside
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        aside.rename(final)
        flush_folder(final.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, aside: Path, out: Path) -> None:
    """Take the folder for this process until the descriptor is closed, however it ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_there = aside.exists() and aside.stat().st_ino == os.fstat(descriptor).st_ino
    except BlockingIOError:
        is_there = False
    except OSError:
        return  # a file system without locks
    if not is_there:
        raise CheckpointError(f"{out}: another process is writing it right now; wait until it has ended")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
