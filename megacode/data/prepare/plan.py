"""What a preparation will do, fixed before it begins and kept on disk: every task reads it, a restart finds it again.

The number of buckets follows from the input's bytes alone, so no choice of tasks, workers or machine shows in the
result. The work folder is named by input and options: other input never meets files of an earlier start.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megacode.data.errors import DataError
from megacode.data.prepare.inputs.checkouts import Checkout
from megacode.data.prepare.inputs.sources import Input, Listing, inputs_text, read_inputs
from megacode.data.prepare.options import PrepareOptions, options_from, settings, to_table
from megacode.data.prepare.writing import replacing, write_json

RULES = 2  # raise when what a step does changes, so that old results are made again
BUCKET_BYTES = 1 << 26  # of source in a bucket, about
PART_BUCKETS = 16  # buckets whose keys of one band a task of the pairs compares, about
COLLECT_BYTES = 1 << 28  # of source for a task that collects, where the machine decides
PLAN, INPUTS = "plan.json", "inputs.jsonl"


@dataclass(frozen=True)
class Plan:
    """The work in `folder`: options, what the input is, and how many tasks, buckets, bands and parts there are."""

    folder: Path
    options: PrepareOptions
    settings: dict[str, Any]
    listing: str
    collectors: int
    buckets: int
    bands: int
    rows: int
    parts: int
    checkouts: tuple[Checkout, ...]
    skipped: dict[str, Any]

    @property
    def data(self) -> Path:
        """Where the tasks' files are; removed at the end."""
        return self.folder / "data"

    @property
    def logs(self) -> Path:
        """Where datatrove keeps its logs and which tasks are complete."""
        return self.folder / "logs"

    @property
    def errors(self) -> Path:
        """Where failed tasks leave what the user must know."""
        return self.folder / "errors"

    @property
    def collected(self) -> Path:
        """Where the collecting tasks write; another number of tasks cuts the input otherwise."""
        return self.data / f"collect-{self.collectors}"

    def collected_files(self) -> list[Path]:
        """Return the files of all collecting tasks."""
        return [self.collected / f"{rank:05d}.zst" for rank in range(self.collectors)]

    def unique(self, bucket: int, ending: str) -> Path:
        """Return a file of the bucket's documents, such as the documents themselves, `jsonl.zst`."""
        return self.data / "unique" / f"{bucket:05d}.{ending}"

    @property
    def comparers(self) -> int:
        """How many tasks look for pairs: one for each part of each band, fewer where there is little to compare."""
        return min(self.bands * self.parts, 4 * self.buckets)

    @property
    def lost(self) -> Path:
        """The near duplicates to drop, int64 [n, 2]: bucket and row among its unique documents, ascending."""
        return self.data / "lost.npy"

    def finished(self, side: str, bucket: int) -> Path:
        """Return the bucket's file of a side, train or validation, before it is published.

        All names have as many digits as the last one, at least five, so that by name is by hash.
        """
        digits = max(5, len(str(self.buckets - 1)))
        return self.data / "finished" / side / f"{bucket:0{digits}d}.jsonl.zst"

    def repositories(self, bucket: int) -> Path:
        """Return the file in which a bucket's documents wait to be grouped by repository."""
        return self.data / "repositories" / f"{bucket:05d}.zst"

    def stats(self, stage: str, rank: int) -> Path:
        """Return where a task says what it did."""
        folder = self.collected if stage == "collect" else self.data / stage
        return folder / f"{rank:05d}.stats.json"

    def inputs(self, rank: int) -> Iterator[Input]:
        """Yield the input files of a collecting task."""
        return read_inputs(self.folder / INPUTS, rank, self.collectors)


def work_folder(options: PrepareOptions, listing: Listing, known: dict[str, Any]) -> Path:
    """Return the folder of a preparation: the same for the same input and options, whoever does the work."""
    named = hashlib.sha256(json.dumps([known, listing.fingerprint], sort_keys=True).encode()).hexdigest()
    return options.out / "work" / named[:16]


def make_plan(options: PrepareOptions, listing: Listing, known: dict[str, Any], workers: int) -> Plan:
    """Return the plan for a listing, written to its folder. `known` is all that the result depends on but the input."""
    from megacode.data.prepare.near.bands import bands_and_rows

    folder = work_folder(options, listing, known)
    buckets = max(1, math.ceil(listing.source_bytes / BUCKET_BYTES))
    collectors = options.executor.tasks or max(workers, math.ceil(listing.source_bytes / COLLECT_BYTES))
    bands, rows = bands_and_rows(options.deduplicate.threshold, options.deduplicate.permutations)
    plan = Plan(
        folder=folder,
        options=options,
        settings=known,
        listing=listing.fingerprint,
        collectors=max(1, min(collectors, len(listing.files))),
        buckets=buckets,
        bands=bands,
        rows=rows,
        parts=math.ceil(buckets / PART_BUCKETS),
        checkouts=listing.checkouts,
        skipped=listing.skipped.to_table(),
    )
    with replacing(folder / INPUTS) as file:
        file.write(inputs_text(listing.files).encode())
    table = {**asdict(plan), "options": to_table(options)}
    del table["folder"]
    write_json(folder / PLAN, table)
    return plan


def load_plan(folder: Path) -> Plan:
    """Return the plan in a work folder. Raises DataError when there is none."""
    try:
        table = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: holds no plan of a preparation ({error}); start it again") from error
    checkouts = tuple(Checkout(**{**one, "licences": tuple(one["licences"])}) for one in table.pop("checkouts"))
    return Plan(folder=folder, options=options_from(table.pop("options")), checkouts=checkouts, **table)


def begin(plan: Plan) -> None:
    """Forget failures, and which tasks are complete where their files are gone: a published result that was lost."""
    shutil.rmtree(plan.errors, ignore_errors=True)
    if not plan.data.is_dir():
        shutil.rmtree(plan.logs, ignore_errors=True)
        plan.data.mkdir(parents=True)


def settings_of(options: PrepareOptions, benchmarks: str) -> dict[str, Any]:
    """Return what the result depends on but the input; `benchmarks` is the fingerprint of the texts kept out."""
    known = {**settings(options), "benchmarks": benchmarks, "rules_version": RULES}
    return json.loads(json.dumps(known))  # as a manifest gives it back, for comparing
