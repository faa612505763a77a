"""All rates of the data path on one machine, as one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megacode.config.schema import RunConfig
from megacode.data.document_files import document_files, read_all
from megacode.prove.data_bench.batches import batch_rates
from megacode.prove.data_bench.near import near_rates
from megacode.prove.data_bench.tokenization import tokenize_rates
from megacode.train.feed import open_tokenizer


def measure(config: RunConfig, documents: Path | None) -> dict[str, Any]:
    """Return the rates of a run's batches and, where prepared documents are given, of what made its shards."""
    found: dict[str, Any] = {"batches": batch_rates(config)}
    if documents is not None:
        found["tokenization"] = tokenize_rates(documents, open_tokenizer(config))
        found["near"] = near_rates([document.content for document in read_all(document_files(documents))])
    return found


def render(found: dict[str, Any]) -> str:
    """Return the rates as lines."""
    lines = ["batches, tokens/s of one core"]
    lines += [f"  {name:<28}{rate:>14,.0f}" for name, rate in found["batches"].items()]
    if tokenization := found.get("tokenization"):
        lines.append(f"tokenization of {tokenization['megabytes']:.1f} MB, MB/s of wall clock, all cores")
        lines += [f"  {name:<28}{tokenization[name]:>14.2f}" for name in ("bare", "ours", "ratio")]
    if near := found.get("near"):
        lines.append(f"near deduplication of {near['documents']:,} documents, documents/s")
        lines += [f"  {name:<28}{rate:>14,.0f}" for name, rate in near["documents_per_second"].items()]
        lines += near["notes"]
    return "\n".join(lines)
