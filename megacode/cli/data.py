"""`megacode data`: what is in the shards, what training sees of them, and taking documents out."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated, Optional

import typer

from megacode import console

data_app = typer.Typer(no_args_is_help=True, help="Look into shards and batches; take documents out.")

RunFile = Annotated[Path, typer.Argument(help="the run's TOML file", metavar="RUN.toml")]
Overrides = Annotated[Optional[list[str]], typer.Argument(help="section.key=value", metavar="[KEY=VALUE]...")]  # noqa: UP045
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable result on stdout")]
Shards = Annotated[list[str], typer.Argument(help="prefix of a shard, or a pattern of several", metavar="SHARDS...")]


@data_app.command()
def audit(
    run: RunFile,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(min=1, help="samples to take apart, from all over the run")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Take samples apart as training sees them: is infilling undone the shard's bytes, and what does it cost?"""
    from megacode.config import load_config
    from megacode.data.inspect.audit import audit, render_audit
    from megacode.train.feed import fim_policy, open_stream, open_tokenizer

    config = load_config(run, overrides or [])
    tokenizer, policy = open_tokenizer(config), fim_policy(config.data)
    stream = open_stream(config.data, tokenizer, policy)
    last = config.train.steps * config.train.global_batch
    step = max(1, last // samples)
    found = audit(stream, tokenizer, range(0, min(last, samples * step), step))
    console.result_json(asdict(found)) if as_json else console.result(render_audit(found, policy))
    if found.findings:
        raise typer.Exit(1)


@data_app.command()
def which(
    run: RunFile,
    overrides: Overrides = None,
    step: Annotated[int, typer.Option(min=1, help="optimizer step, from 1, as in metrics.jsonl")] = 1,
    dp_rank: Annotated[Optional[int], typer.Option(min=0, help="one replica's; default: all")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Name the documents that a training step saw."""
    from megacode.config import load_config
    from megacode.data.inspect.which import render_seen, which
    from megacode.train.feed import open_feed

    feed = open_feed(load_config(run, overrides or []))
    assert feed.stream is not None, "a feed from a configuration has a stream"
    seen = which(feed.train, feed.stream, step, dp_rank)
    if as_json:
        console.result_json([{**asdict(one), "row": one.row and one.row._asdict()} for one in seen])
    else:
        console.result(render_seen(seen))


@data_app.command()
def stats(shards: Shards, as_json: AsJson = False) -> None:
    """Count what is in shards: documents, tokens, lengths, languages, removals."""
    from megacode.data.inspect.stats import render_stats, shard_stats
    from megacode.data.shards.indexed import ShardReader

    found = [shard_stats(ShardReader(prefix)) for prefix in _prefixes(shards)]
    console.result_json([asdict(one) for one in found]) if as_json else console.result(render_stats(found))


@data_app.command()
def pack(
    shards: Shards, sequence: Annotated[int, typer.Option(min=1, help="data.sequence of the runs, tokens")]
) -> None:
    """Plan best-fit packing beside each shard, for runs with data.packing = "best-fit"."""
    from megacode.data.shards.indexed import ShardReader
    from megacode.data.stream.plan import plan_path, write_plan

    for prefix in _prefixes(shards):
        reader = ShardReader(prefix)
        plan = write_plan(reader, sequence)
        share = 1 - reader.tokens / (plan.samples * (sequence + 1)) if plan.samples else 0.0
        console.result(f"{plan_path(prefix, sequence)}: {plan.samples:,} samples, about {share:.2%} padding")


@data_app.command()
def verify(shards: Shards) -> None:
    """Read every byte of the shards and compare it with the checksums beside them."""
    from megacode.data.shards.check import verify_shard

    problems = []
    for prefix in _prefixes(shards):
        found = verify_shard(prefix)
        console.result("\n".join(found) if found else f"{prefix}: sound")
        problems += found
    if problems:
        raise typer.Exit(1)


@data_app.command()
def remove(
    shards: Shards,
    removal_list: Annotated[Path, typer.Option("--list", help="ids, owner/name or paths of documents, one a line")],
    who: Annotated[str, typer.Option(help="who asked for it, for the record")] = "",
    why: Annotated[str, typer.Option(help="for which reason")] = "",
    as_json: AsJson = False,
) -> None:
    """Take documents out of built shards: their tokens are overwritten, and training passes over their places."""
    from megacode.data.shards.removal import remove_documents
    from megacode.data.shards.removal_list import load_removal_list

    asked, today = load_removal_list(removal_list), date.today().isoformat()
    reports = [remove_documents(prefix, asked, who=who, when=today, why=why) for prefix in _prefixes(shards)]
    if as_json:
        console.result_json([asdict(report) for report in reports])
        return
    for report in reports:
        completed = ", an interrupted removal completed" * report.resumed
        console.result(
            f"{report.prefix}: {report.documents:,} documents, {report.tokens:,} tokens removed; "
            f"{report.removed:,} in all{completed}"
        )


@data_app.command()
def bench(
    run: RunFile,
    overrides: Overrides = None,
    documents: Annotated[
        Path | None, typer.Option(help="prepared documents: tokenization and deduplication too")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this machine makes batches, tokenizes and deduplicates, beside the libraries that others use."""
    from megacode.config import load_config
    from megacode.prove.data_bench.measure import measure, render

    found = measure(load_config(run, overrides or []), documents)
    console.result_json(found) if as_json else console.result(render(found))


def _prefixes(patterns: list[str]) -> list[Path]:
    """The prefixes that the patterns name. Raises DataError for one that names none."""
    from megacode.data.errors import DataError
    from megacode.data.shards.names import shard_prefixes

    found = []
    for pattern in patterns:
        prefixes = shard_prefixes(pattern)
        if not prefixes:
            raise DataError(f"{pattern}: no shard of this name; make it with `megacode tokenize`")
        found += prefixes
    return found
