"""Prepare a corpus: from sources to OUT/train, OUT/validation and OUT/manifest.json, on one machine or a cluster.

The result depends on the input and the options only, so a start that finds a complete result does nothing, and one
that finds an interrupted preparation goes on with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megacode.data.errors import DataError
from megacode.data.prepare.inputs.sources import Listing, find_inputs
from megacode.data.prepare.options import PrepareOptions
from megacode.data.prepare.plan import Plan, begin, make_plan, settings_of, work_folder
from megacode.data.prepare.report import PrepareReport, from_json
from megacode.data.prepare.stages.publish import MANIFEST

SMALL_BYTES = 1 << 23  # of source, for which starting processes takes longer than the work


@dataclass(frozen=True)
class Submitted:
    """A preparation that Slurm has in its queue: the jobs, and the work folder with their logs."""

    jobs: tuple[str, ...]
    folder: Path


def prepare(options: PrepareOptions, wait: bool = True) -> PrepareReport | Submitted:
    """Write OUT/train/*.jsonl.zst, OUT/validation/*.jsonl.zst and OUT/manifest.json, and return what was done.

    When OUT holds the complete result of the same input and options, nothing is done and `reused` is True. Under Slurm
    without `wait`, what was submitted is returned; the last job writes the manifest.
    Raises DataError when a source cannot be read or too little is left of it.
    """
    kept_out = tuple(str(Path(path).absolute()) for path in options.decontaminate)
    options = replace(options, out=Path(options.out).absolute(), decontaminate=kept_out)
    out = options.out
    listing = find_inputs(options)
    known = settings_of(options, _benchmarks(options))
    ready = _ready(out, known, listing)
    if ready is not None:
        # Behind a start that was killed after its last stage; under Slurm the jobs' logs stay.
        if options.executor.kind != "slurm" and work_folder(options, listing, known).is_dir():
            with _alone(out):
                _clear_up(work_folder(options, listing, known))
        return ready
    out.mkdir(parents=True, exist_ok=True)
    plan = make_plan(options, listing, known, _workers(options, listing))
    if options.executor.kind == "slurm":
        from megacode.data.prepare.executors.slurm import submit, wait_for

        jobs = submit(plan)
        if not wait:
            return Submitted(tuple(jobs), plan.folder)
        wait_for(plan, jobs)
    else:
        with _alone(out):
            _run_here(plan, _workers(options, listing))
    return _read(out, reused=False)


def _run_here(plan: Plan, workers: int) -> None:
    """Run all stages and clear up behind them."""
    begin(plan)
    if plan.options.executor.kind == "ray":
        from megacode.data.prepare.executors.ray import run_ray

        run_ray(plan)
    else:
        from megacode.data.prepare.executors.local import run_local

        run_local(plan, workers)
    _clear_up(plan.folder)


def _clear_up(folder: Path) -> None:
    """Remove the work of a preparation; that of one with other input or options stays, to go on with."""
    shutil.rmtree(folder)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def _workers(options: PrepareOptions, listing: Listing) -> int:
    """Return how many processes work here: as asked, else one for each core, and one for little input."""
    few = listing.source_bytes < SMALL_BYTES
    return options.executor.workers or (1 if few else len(os.sched_getaffinity(0)))


def _benchmarks(options: PrepareOptions) -> str:
    """Return the fingerprint of the texts that are kept out."""
    if not options.decontaminate:
        return ""
    from megacode.data.prepare.decontaminate import Benchmarks

    return Benchmarks.load([Path(path) for path in options.decontaminate]).fingerprint


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it however the process ends."""
    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{out}: another preparation is writing here; wait for it, or give another folder"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _ready(out: Path, known: dict[str, Any], listing: Listing) -> PrepareReport | None:
    """Return the report of a complete result of the same input and options, or None."""
    if not (out / MANIFEST).is_file():
        return None
    try:
        report = _read(out, reused=True)
    except DataError:
        return None
    same = (report.options, report.listing) == (known, listing.fingerprint)
    return report if same and all(_is_whole(out, report)) else None


def _is_whole(out: Path, report: PrepareReport) -> Iterator[bool]:
    """Yield for every file of a result whether it is there with its bytes."""
    for output in (report.train, report.validation):
        for shard in output.files:
            path = out / output.name / shard.name
            yield path.is_file() and path.stat().st_size == shard.file_bytes


def _read(out: Path, reused: bool) -> PrepareReport:
    """Return the report in OUT/manifest.json."""
    text = (out / MANIFEST).read_text(encoding="utf-8")
    return replace(from_json(text, out), reused=reused)
