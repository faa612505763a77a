"""What is in a shard: documents, tokens, their lengths, languages, and what was removed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from megacode.data.shards.document_table import DocumentTable
from megacode.data.shards.indexed import ShardReader
from megacode.data.shards.sidecar import read_sidecar

SHOWN_LANGUAGES = 8


@dataclass(frozen=True)
class ShardStats:
    """Counts of one shard; lengths in tokens, `bytes_per_token` of text; `languages` by tokens, most first."""

    prefix: str
    documents: int
    tokens: int
    removed: int
    median_length: float
    longest: int
    bytes_per_token: float
    languages: dict[str, int]


def shard_stats(reader: ShardReader) -> ShardStats:
    """Return a shard's counts. Raises DataError when its sidecar or document table is missing or damaged."""
    sidecar = read_sidecar(reader.prefix)
    lengths = np.asarray(reader.lengths)
    languages: Counter[str] = Counter()
    for _, columns in DocumentTable(reader.prefix).groups(["language", "tokens"]):
        for language, tokens in zip(columns["language"], columns["tokens"], strict=True):
            languages[language] += tokens
    return ShardStats(
        prefix=str(reader.prefix),
        documents=reader.documents,
        tokens=reader.tokens,
        removed=int(reader.removed.size),
        median_length=float(np.median(lengths)) if lengths.size else 0.0,
        longest=int(lengths.max(initial=0)),
        bytes_per_token=sidecar.content_bytes / max(1, reader.tokens),
        languages=dict(languages.most_common()),
    )


def render_stats(stats: list[ShardStats]) -> str:
    """Return one line for each shard, and its languages below."""
    lines = [f"{'documents':>12}{'tokens':>16}{'median':>9}{'longest':>10}{'bytes/token':>13}{'removed':>9}  shard"]
    for one in stats:
        lines.append(
            f"{one.documents:>12,}{one.tokens:>16,}{one.median_length:>9,.0f}{one.longest:>10,}"
            f"{one.bytes_per_token:>13.2f}{one.removed:>9,}  {one.prefix}"
        )
        shown = list(one.languages.items())[:SHOWN_LANGUAGES]
        if shown:
            lines.append("    " + ", ".join(f"{name} {tokens / one.tokens:.1%}" for name, tokens in shown))
    return "\n".join(lines)
