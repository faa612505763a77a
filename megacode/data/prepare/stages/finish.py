"""Stages 5 and 6: a bucket's documents without near duplicates, decontaminated, redacted, formatted and split.

For StarCoder2's repositories stage 5 puts the files into buckets by the repository's name, and stage 6 makes one
document of each repository. Held in memory: one document in stage 5, a bucket's repositories in stage 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from megacode.data.documents import Document, from_json, read_documents, to_json
from megacode.data.formats.metadata import MetadataRates, with_metadata
from megacode.data.formats.repositories import repository_documents
from megacode.data.prepare.buckets import BucketWriter, bucket_lines, bucket_of
from megacode.data.prepare.decontaminate import Benchmarks
from megacode.data.prepare.options import STARCODER, STARCODER2
from megacode.data.prepare.plan import Plan
from megacode.data.prepare.redact import redact_document
from megacode.data.prepare.split import SIDES, Split, key_of, repository_key
from megacode.data.prepare.tally import DECONTAMINATION, NEAR, REDACTION, Tally, bytes_of
from megacode.data.prepare.writing import DocumentWriter, write_json

BENCHMARK = "a text of a benchmark"


def finish(plan: Plan, rank: int, moved: str = "") -> None:
    """Write bucket `rank`'s train and validation documents, or its files on their way to their repositories.

    `moved` is a key whose documents go to the other side than their hash says.
    """
    tally = Tally()
    if plan.options.format.repositories:
        with BucketWriter(plan.repositories(rank)) as writer:
            for document, _ in _clean(plan, rank, tally):
                writer.add(bucket_of(repository_key(document), plan.buckets), to_json(document).encode())
        write_json(plan.stats("finish", rank), {"tally": tally.to_table()})
        return
    _write(plan, rank, _formatted(plan, _clean(plan, rank, tally)), moved, ("finish", tally))


def repositories(plan: Plan, rank: int, moved: str = "") -> None:
    """Write the train and validation documents of the repositories whose names fall into bucket `rank`."""
    lines = bucket_lines([plan.repositories(bucket) for bucket in range(plan.buckets)], rank)
    chosen = plan.options.format
    made = repository_documents([from_json(line) for line in lines], chosen.seed, chosen.most_characters)
    keyed = sorted(((repository_key(one), place, one) for place, one in enumerate(made)), key=lambda item: item[:2])
    _write(plan, rank, ((one, key) for key, _, one in keyed), moved, ("repositories", Tally()))


def _clean(plan: Plan, bucket: int, tally: Tally) -> Iterator[tuple[Document, bytes]]:
    """Yield the bucket's documents that stay, redacted, with the key that each had before."""
    options = plan.options
    lost = _lost_rows(plan, bucket)
    # In a repository's document a file is one text, so there the placeholders are plain text too.
    special_tokens = options.format.family == STARCODER2 and not options.format.repositories
    benchmarks = Benchmarks.load([Path(path) for path in options.decontaminate]) if options.decontaminate else None
    for row, document in enumerate(read_documents(plan.unique(bucket, "jsonl.zst"))):
        if row in lost:
            continue
        if options.deduplicate.near:
            tally.keep(NEAR, bytes_of(document))
        if benchmarks is not None:
            entry = benchmarks.hit(document.content)
            if entry is not None:
                tally.drop(DECONTAMINATION, BENCHMARK, f"{document.path} (holds {entry})")
                continue
            tally.keep(DECONTAMINATION, bytes_of(document))
        key = key_of(document)
        yield (_redacted(document, special_tokens, tally) if options.redact else document), key


def _lost_rows(plan: Plan, bucket: int) -> frozenset[int]:
    """Return which of the bucket's documents are near duplicates of one that stays."""
    if not plan.options.deduplicate.near:
        return frozenset()
    lost = np.load(plan.lost, mmap_mode="r", allow_pickle=False)
    first, last = np.searchsorted(lost[:, 0], (bucket, bucket + 1))
    return frozenset(lost[first:last, 1].tolist())


def _redacted(document: Document, special_tokens: bool, tally: Tally) -> Document:
    """Return the document without personal data and secrets; what was replaced is counted."""
    redacted, counts = redact_document(document, special_tokens)
    for name, number in counts:
        tally.count(REDACTION, f"{name} replaced", number)
    if counts:
        tally.count(REDACTION, "documents changed", 1)
    tally.keep(REDACTION, bytes_of(redacted))
    return redacted


def _formatted(plan: Plan, documents: Iterator[tuple[Document, bytes]]) -> Iterator[tuple[Document, bytes]]:
    """Yield the documents with the metadata of their family."""
    chosen = plan.options.format
    rates = MetadataRates(chosen.repository_rate, chosen.path_rate, chosen.stars_rate)
    for document, key in documents:
        yield (with_metadata(document, chosen.seed, rates) if chosen.family == STARCODER else document), key


def _write(
    plan: Plan, bucket: int, documents: Iterator[tuple[Document, bytes]], moved: str, stage: tuple[str, Tally]
) -> None:
    """Write documents with their keys to the bucket's two files, and what the task did."""
    split = Split(plan.options.validation_share, moved)
    with ExitStack() as stack:
        writers = {side: stack.enter_context(DocumentWriter(plan.finished(side, bucket))) for side in SIDES}
        for document, key in documents:
            writers[split.side(key)].add(document)
    name, tally = stage
    shards = {side: vars(writer.shard()) for side, writer in writers.items()}
    write_json(plan.stats(name, bucket), {"tally": tally.to_table(), "shards": shards, "border": split.to_table()})
