"""Which documents a training step saw: the run's arithmetic, asked backwards to names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megacode.data.batches import BatchPlan
from megacode.data.shards.document_table import DocumentRow, DocumentTable, table_path
from megacode.data.stream.stream import SampleStream


@dataclass(frozen=True)
class Seen:
    """A document's part in a sample: tokens `start` .. `stop` of document `document` of the shard.

    `sample`: its number in the run; `dp_rank` and `micro_batch`: who trained on it; `epoch`: the source's, from 0;
    `row`: what the shard's document table knows of it, None where there is no table.
    """

    sample: int
    dp_rank: int
    micro_batch: int
    source: str
    epoch: int
    shard: str
    document: int
    start: int
    stop: int
    row: DocumentRow | None


def which(plan: BatchPlan, stream: SampleStream, step: int, dp_rank: int | None = None) -> list[Seen]:
    """Return what the samples of `step` (from 1, as in metrics) are made of; of one data-parallel rank, or of all.

    Raises DataError for a rank or a step that the plan does not have.
    """
    ranks = range(plan.dp) if dp_rank is None else [dp_rank]
    places = [
        (number, rank, index)
        for rank in ranks
        for index in range(plan.micro_batches_per_rank)
        for number in plan.sample_indices(step - 1, rank, index)
    ]
    found: list[Seen] = []
    tables: dict[Path, DocumentTable | None] = {}
    for number, rank, index in sorted(places):
        origin = stream.origin(number)
        source = stream.sources[origin.source]
        for span in stream.spans(number):
            prefix = source.shards[span.shard].prefix
            if prefix not in tables:
                tables[prefix] = DocumentTable(prefix) if table_path(prefix).is_file() else None
            table = tables[prefix]
            row = table.row(span.document) if table else None
            found.append(Seen(number, rank, index, source.name, origin.epoch, str(prefix), *span[1:], row))
    return found


def render_seen(seen: list[Seen]) -> str:
    """Return one line for each part."""
    lines = []
    for one in seen:
        place = f"sample {one.sample} (dp rank {one.dp_rank}, micro-batch {one.micro_batch})"
        text = f"{place}: {one.source}, epoch {one.epoch}: {one.shard} document {one.document}"
        name = " ".join(part for part in one.row[:3] if part) if one.row else "no document table beside the shard"
        lines.append(f"{text}, tokens {one.start} to {one.stop}: {name}")
    return "\n".join(lines)
