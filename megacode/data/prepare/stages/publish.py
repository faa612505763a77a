"""The last stage: neither side empty, the files to their place, and the manifest that says what all tasks did."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from megacode.data.atomic import write_text
from megacode.data.errors import DataError
from megacode.data.prepare.buckets import bucket_of
from megacode.data.prepare.plan import Plan
from megacode.data.prepare.report import Output, PrepareReport, Shard, to_json
from megacode.data.prepare.split import SIDES, to_move
from megacode.data.prepare.stages.finish import finish, repositories
from megacode.data.prepare.tally import Tally

MANIFEST = "manifest.json"
_SHARD = re.compile(r"\d{5,}\.jsonl\.zst")


def publish(plan: Plan, rank: int) -> None:
    """Move the finished files to OUT/train and OUT/validation, and write OUT/manifest.json.

    What an earlier preparation left there is removed, and in the end all files of the stages, so that a plan without
    data is done. Raises DataError when too few documents are left for two sets.
    """
    if not plan.data.is_dir():
        return
    ready = plan.data / MANIFEST  # from here on only files are moved, which a restart must not make anew
    if not ready.is_file():
        write_text(ready, to_json(_report(plan, _balanced(plan))))
    (plan.options.out / MANIFEST).unlink(missing_ok=True)
    for side in SIDES:
        _place(plan.data / "finished" / side, plan.options.out / side)
    write_text(plan.options.out / MANIFEST, ready.read_text(encoding="utf-8"))
    gone = plan.data.with_name("published")
    plan.data.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _balanced(plan: Plan) -> list[dict[str, Any]]:
    """Return what the tasks of the last stage did, after one document or repository has moved to a side without any."""
    last, work = ("repositories", repositories) if plan.options.format.repositories else ("finish", finish)
    stats = [_stats(plan, last, bucket) for bucket in range(plan.buckets)]
    moved = to_move(one["border"] for one in stats)
    if moved:
        bucket = bucket_of(bytes.fromhex(moved), plan.buckets)
        work(plan, bucket, moved)
        stats[bucket] = _stats(plan, last, bucket)
    return stats


def _stats(plan: Plan, stage: str, rank: int) -> dict[str, Any]:
    """Return what a task said that it did."""
    return json.loads(plan.stats(stage, rank).read_text(encoding="utf-8"))


def _output(side: str, stats: list[dict[str, Any]]) -> Output:
    """Return the description of a set. Raises DataError when it is empty."""
    shards = tuple(Shard(**one["shards"][side]) for one in stats)
    documents = sum(shard.documents for shard in shards)
    if not documents:
        left = sum(one["shards"][other]["documents"] for one in stats for other in SIDES)
        raise DataError(
            f"a train and a validation set need at least 2 documents of different content or repository; {left} left "
            "after filtering: give more files, or look at the reasons in the report"
        )
    return Output(side, documents, sum(shard.content_bytes for shard in shards), shards)


def _report(plan: Plan, last: list[dict[str, Any]]) -> PrepareReport:
    """Return the report of all tasks' statistics, `last` being those of the last stage."""
    train, validation = (_output(side, last) for side in SIDES)
    tally = Tally()
    tally.merge(plan.skipped)
    files = []
    for rank in range(plan.collectors):
        collected = _stats(plan, "collect", rank)
        tally.merge(collected["tally"])
        files += collected["inputs"]
    stages = [("unique", plan.buckets), ("finish", plan.buckets)]
    if plan.options.deduplicate.near:
        stages.append(("clusters", 1))
    for stage, tasks in stages:
        for rank in range(tasks):
            tally.merge(_stats(plan, stage, rank)["tally"])
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{json.dumps(file)}\n".encode())
    return PrepareReport(
        out=plan.options.out,
        options=plan.settings,
        listing=plan.listing,
        input_sha256=total.hexdigest(),
        steps=tally.reports(),
        train=train,
        validation=validation,
        reused=False,
    )


def _place(finished: Path, target: Path) -> None:
    """Put a finished folder in the place of an older one. After a kill, what is moved already is left as it is."""
    if not finished.is_dir():
        return
    if target.is_dir():
        strange = sorted(path.name for path in target.iterdir() if not _is_ours(path.name))
        if strange:
            raise DataError(f"{target}: holds {strange[0]}, which no preparation wrote; give another folder with --out")
        shutil.rmtree(target)
    for leftover in finished.glob(".*.partial"):
        leftover.unlink(missing_ok=True)
    finished.rename(target)


def _is_ours(name: str) -> bool:
    """Return whether a preparation writes files of this name."""
    return bool(_SHARD.fullmatch(name)) or name.endswith(".partial")
