"""Names and life of checkpoint folders inside a run folder: aside while being written, then committed by one rename."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.manifest import FILE_NAME, Manifest
from megacode.checkpoint.read import verify

_COMMITTED = re.compile(r"step-(\d{8})")
_ASIDE = ".saving-"


def aside_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` is written before it counts."""
    return run / f"{_ASIDE}{step:08d}"


def committed_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` is once it counts."""
    return run / f"step-{step:08d}"


def committed(run: Path) -> list[Path]:
    """The committed checkpoints of a run, oldest first."""
    if not run.is_dir():
        return []
    return sorted(entry for entry in run.iterdir() if _COMMITTED.fullmatch(entry.name))


def find_checkpoint(path: Path) -> Path:
    """`path` if it is a checkpoint, the newest one in it if it is a run folder; raises CheckpointError if neither."""
    if (path / FILE_NAME).is_file():
        return path
    if found := committed(path):
        return found[-1]
    raise CheckpointError(f"{path}: is neither a checkpoint nor a run folder that holds one")


def start_aside(run: Path, step: int) -> None:
    """Make an empty folder to write into, removing what an interrupted save left."""
    run.mkdir(parents=True, exist_ok=True)
    for leftover in run.glob(f"{_ASIDE}*"):
        shutil.rmtree(leftover)
    aside_folder(run, step).mkdir()


def commit(run: Path, step: int, keep: int) -> Path:
    """Rename the finished folder into place, flush the rename to disk and drop all but the `keep` newest."""
    final = committed_folder(run, step)
    if final.exists():
        shutil.rmtree(final)
    aside_folder(run, step).rename(final)
    flush_folder(run)
    for old in committed(run)[:-keep]:
        # Renamed first: a folder that is being deleted must not look like a checkpoint.
        doomed = run / f"{_ASIDE}{old.name}"
        old.rename(doomed)
        shutil.rmtree(doomed)
    return final


def flush_folder(folder: Path) -> None:
    """Make new names in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_sound(run: Path, tell: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are all whole; every one passed over is told, with the reason."""
    for folder in reversed(committed(run)):
        try:
            verify(folder, Manifest.read(folder))
            return folder
        except CheckpointError as error:
            tell(f"passing over {folder.name}: {error}")
    return None
