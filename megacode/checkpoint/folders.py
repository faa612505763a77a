"""Names and life of checkpoint folders inside a run folder: aside while being written, then committed by one rename."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.manifest import FILE_NAME

_COMMITTED = re.compile(r"step-(\d{8,})")
_ASIDE = ".saving-"
_ASIDE_NAME = re.compile(r"\.saving-(\d+)-[0-9a-f]+")
_DOOMED = ".dropping-"


def aside_folder(run: Path, step: int, token: int) -> Path:
    """Where the checkpoint of `step` is written before it counts, by the start of the run that has this token."""
    return run / f"{_ASIDE}{step:08d}-{token:016x}"


def asides_before(run: Path, step: int) -> list[Path]:
    """The folders of saves that began before that of `step` and did not end well."""
    found = [(match, entry) for entry in run.iterdir() if (match := _ASIDE_NAME.fullmatch(entry.name))]
    return [entry for match, entry in found if int(match.group(1)) < step]


def committed_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` is once it counts."""
    return run / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step of a committed checkpoint."""
    match = _COMMITTED.fullmatch(folder.name)
    assert match, folder
    return int(match.group(1))


def committed(run: Path) -> list[Path]:
    """The committed checkpoints of a run, oldest first."""
    if not run.is_dir():
        return []
    return sorted((entry for entry in run.iterdir() if _COMMITTED.fullmatch(entry.name)), key=step_of)


def find_checkpoint(path: Path) -> Path:
    """`path` if it is a checkpoint, the newest one in it if it is a run folder; raises CheckpointError if neither."""
    if (path / FILE_NAME).is_file():
        return path
    if found := committed(path):
        return found[-1]
    raise CheckpointError(f"{path}: is neither a checkpoint nor a run folder that holds one")


def clean_up(run: Path) -> None:
    """Remove what interrupted saves and removals left in a run folder."""
    for ending in (_ASIDE, _DOOMED):
        for leftover in run.glob(f"{ending}*"):
            shutil.rmtree(leftover, ignore_errors=True)


def commit(aside: Path, final: Path) -> None:
    """Rename a finished folder into place and flush the rename; one that was there is removed."""
    doomed = _step_aside(final) if final.exists() else None
    aside.rename(final)
    flush_folder(final.parent)
    if doomed:
        shutil.rmtree(doomed, ignore_errors=True)


def prune(run: Path, newest: int, keep: int, keep_every: int) -> None:
    """Remove the checkpoints before step `newest` but for the `keep` last ones up to it, and multiples of `keep_every`.

    Later ones are from before the run went back, and will be written again.
    """
    for old in [folder for folder in committed(run) if step_of(folder) <= newest][:-keep]:
        if not (keep_every and step_of(old) % keep_every == 0):
            shutil.rmtree(_step_aside(old), ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Make new names in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop(folders: Iterable[Path]) -> None:
    """Remove folders that no longer matter."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _step_aside(folder: Path) -> Path:
    """Rename a checkpoint: one that is being removed must not look like one."""
    doomed = folder.with_name(f"{_DOOMED}{folder.name}")
    if doomed.exists():
        shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    return doomed
