"""The `megacode` command: each subcommand imports its room when it runs, so that --help answers at once.

Exit codes: 0 well, 1 a finding or a failure, 2 a wrong configuration or call.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from megacode import console
from megacode.cli.checkpoint import checkpoint_app
from megacode.cli.data import data_app
from megacode.cli.huggingface import register as register_hugging_face
from megacode.errors import MegacodeError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
tokenizer_app = typer.Typer(no_args_is_help=True, help="Make or import a tokenizer.")
app.add_typer(tokenizer_app, name="tokenizer")
kernels_app = typer.Typer(no_args_is_help=True, help="What the Triton kernels compile to, and how they run on a GPU.")
app.add_typer(kernels_app, name="kernels")
app.add_typer(data_app, name="data")
app.add_typer(checkpoint_app, name="checkpoint")
register_hugging_face(app)

RunFile = Annotated[Path, typer.Argument(help="the run's TOML file", metavar="RUN.toml")]
Overrides = Annotated[Optional[list[str]], typer.Argument(help="section.key=value", metavar="[KEY=VALUE]...")]  # noqa: UP045
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable result on stdout")]
Out = Annotated[Path, typer.Option(help="folder to write")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; mistakes of the user become one message and an exit code."""
    try:
        app(list(arguments) if arguments is not None else None)
    except MegacodeError as error:
        console.say(str(error))
        sys.exit(error.exit_code)


@app.command()
def check(run: RunFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Find every mistake in a configuration, and say what it amounts to. Needs no torch."""
    from megacode.config import load_config
    from megacode.plan.summary import render_summary, summarize

    config = load_config(run, overrides or [])
    summary = summarize(config)
    if as_json:
        console.result_json({**asdict(summary), "folder": config.checkpoint.folder, "sound": True})
    else:
        console.result(render_summary(summary))
        console.result(f"{run} is sound")


@app.command()
def prepare(
    configuration: Annotated[Optional[list[str]], typer.Argument(metavar="[PREPARE.toml] [KEY=VALUE]...")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="folder to write; stands before output.folder")] = None,  # noqa: UP045
    source: Annotated[Optional[Path], typer.Option(help="folder of code, or .jsonl[.gz|.zst] / .parquet")] = None,  # noqa: UP045
    validation_share: Annotated[Optional[float], typer.Option(help="stands before split.validation_share")] = None,  # noqa: UP045
    wait: Annotated[
        bool, typer.Option("--wait", help="with executor.kind=slurm: until the last job has ended")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Collect documents, filter, drop duplicates, redact, decontaminate, format, and split train from validation.

    Without PREPARE.toml and --source, reads the standard library of the running interpreter. Started again after any
    end, it goes on; the result is the same.
    """
    from megacode.config.prepare_load import load_prepare
    from megacode.data.prepare import Submitted, options_from, prepare, render_report

    words = configuration or []
    file = Path(words.pop(0)) if words and "=" not in words[0] else None
    given: dict[str, Any] = {"output.folder": out and str(out), "split.validation_share": validation_share}
    if source or not file:
        given["sources"] = [{"path": str(source or sysconfig.get_path("stdlib"))}]
    given = {key: value for key, value in given.items() if value is not None}
    report = prepare(options_from(load_prepare(file, words, given).tables()), wait)
    if as_json:
        console.result_json(asdict(report))
    elif isinstance(report, Submitted):
        console.result(f"submitted {' '.join(report.jobs)}; the last one writes the manifest; logs in {report.folder}")
    else:
        console.result("\n".join(render_report(report)))


@tokenizer_app.command("train")
def train_tokenizer(
    documents: Annotated[list[Path], typer.Argument(help="prepared documents: .jsonl.zst files, or their folder")],
    out: Out,
    vocab_size: Annotated[int, typer.Option(help="tokens, sentinels included")] = 49152,
    family: Annotated[str, typer.Option(help="whose sentinels: starcoder or starcoder2")] = "starcoder",
    kind: Annotated[str, typer.Option(help="bpe, sentencepiece-unigram or sentencepiece-bpe")] = "bpe",
) -> None:
    """Train a tokenizer with the sentinels of StarCoder or StarCoder2."""
    from megacode.data.tokenizers.training import train_on_documents

    tokenizer, reused = train_on_documents(documents, out, vocab_size, family, kind)
    console.result(f"{out}: {tokenizer.vocab_size:,} tokens, {tokenizer.fingerprint[:12]}" + " (reused)" * reused)


@tokenizer_app.command("import")
def import_tokenizer(
    source: Annotated[Path, typer.Argument(help="tokenizer.json, a SentencePiece .model, or a folder with one")],
    out: Out,
) -> None:
    """Check a ready tokenizer and copy it into a folder that runs can use."""
    from megacode.data.tokenizers.tokenizer import import_tokenizer

    tokenizer = import_tokenizer(source, out)
    console.result(f"{out}: {tokenizer.vocab_size:,} tokens, {tokenizer.fingerprint[:12]}")
    if tokenizer.missing_bytes:
        console.say(f"{len(tokenizer.missing_bytes)} of the 256 bytes have no token: see `megacode tokenize --lossy`")


@app.command()
def tokenize(
    documents: Annotated[list[Path], typer.Argument(help="prepared documents: .jsonl.zst files, or their folder")],
    tokenizer: Annotated[Path, typer.Option(help="folder with tokenizer.json or tokenizer.model")],
    prefix: Annotated[Path, typer.Option(help="shards to write: PREFIX.bin, .idx, .json, .documents.parquet")],
    by_language: Annotated[bool, typer.Option("--by-language", help="one shard for each: PREFIX-LANGUAGE")] = False,
    most_tokens: Annotated[int, typer.Option(min=0, help="of a shard: PREFIX-00000, …; 0: one shard")] = 0,
    lossy: Annotated[str, typer.Option(help="documents with bytes that have no token: drop or keep")] = "drop",
    removal_list: Annotated[Optional[Path], typer.Option(help="documents to leave out, one a line")] = None,  # noqa: UP045
    source: Annotated[str, typer.Option(help="what the shards say that they are from")] = "",
    as_json: AsJson = False,
) -> None:
    """Turn documents into shards in Megatron's .bin/.idx format."""
    from megacode.data.shards.removal_list import RemovalList, load_removal_list
    from megacode.data.shards.tokenize import tokenize
    from megacode.data.tokenizers.tokenizer import Tokenizer

    removed = load_removal_list(removal_list) if removal_list else RemovalList()
    report = tokenize(
        documents,
        Tokenizer.load(tokenizer),
        prefix,
        by_language=by_language,
        most_tokens=most_tokens,
        lossy=lossy,
        removed=removed,
        source=source,
    )
    if as_json:
        console.result_json(asdict(report))
        return
    console.result(
        f"{prefix}: {report.documents:,} documents, {report.tokens:,} tokens, "
        f"{report.bytes_per_token:.2f} bytes a token"
        + f", {len(report.shards)} shards" * (len(report.shards) > 1)
        + " (reused)" * report.reused
    )
    for reason, count in report.dropped.items():
        console.result(f"  {count:,} left out: {reason}")


@app.command()
def train(run: RunFile, overrides: Overrides = None) -> None:
    """Train, as one rank of a world that torchrun, Slurm or MPI started; resumes by itself."""
    from megacode.train.signals import StopRequest

    stop = StopRequest().install()
    config, place = _checked_run(run, overrides or [])
    from megacode.train.loop import train

    train(config, place, stop)


@app.command()
def bench(
    run: RunFile,
    overrides: Overrides = None,
    layouts: Annotated[str, typer.Option(help="TPxPPxDP[:SCHEDULE[:CHUNKS]],...; default: the run's own")] = "",
    precision: Annotated[str, typer.Option(help="bf16,fp32; default: the run's own")] = "",
    steps: Annotated[int, typer.Option(min=1, help="timed optimizer steps of each engine")] = 10,
    warm_up: Annotated[int, typer.Option(min=1, help="optimizer steps before them")] = 2,
    against: Annotated[str, typer.Option(help="other engines: transformers,plain,megatron-core")] = "",
    variants: Annotated[Optional[list[str]], typer.Option("--with", help="ours with KEY=VALUE, beside ours")] = None,  # noqa: UP045
    peers_python: Annotated[
        Path, typer.Option(help="interpreter that has the other engines", show_default="this one")
    ] = Path(sys.executable),
    as_json: AsJson = False,
) -> None:
    """Measure throughput, memory and where a step's time goes, on made-up tokens and this machine's ranks."""
    from megacode.prove.bench.contenders import Request, contenders
    from megacode.prove.layouts import WrongCall

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise WrongCall("bench starts its ranks itself; start it once, with launch/bench.sh or `megacode bench`")
    parts = (layouts, precision, against)
    wanted = contenders(Request(run, tuple(overrides or ()), *parts, tuple(variants or ()), peers_python))
    from megacode.prove.bench.figures import figures
    from megacode.prove.bench.measure import Plan, measure
    from megacode.prove.bench.table import render

    plan = Plan(steps, warm_up)
    with console.progress("steps", len(wanted) * (steps + warm_up)) as advance:
        records = measure(wanted, plan, os.environ, advance)
    found = figures(records, plan)
    console.result_json(found) if as_json else console.result(render(found))
    if any(record.error for record in records if record.contender.is_ours):
        raise typer.Exit(1)


@app.command()
def verify(
    run: Annotated[Optional[Path], typer.Argument(help="the run's TOML file", metavar="RUN.toml")] = None,  # noqa: UP045
    overrides: Overrides = None,
    layouts: Annotated[str, typer.Option(help="TPxPPxDP[:SCHEDULE[:CHUNKS]],...; default: the run's own")] = "",
    every_mix: Annotated[bool, typer.Option("--all", help="instead of a run: our own models in every mix")] = False,
    as_json: AsJson = False,
) -> None:
    """Prove on this machine's CPU that layouts compute the same model as one process, with toy widths."""
    from megacode.config import load_config
    from megacode.prove.layouts import WrongCall

    if every_mix == (run is not None) or (every_mix and layouts):
        raise WrongCall("verify takes either a RUN.toml, with --layouts or without, or --all alone")
    config = load_config(run, overrides or []) if run else None
    from megacode.prove.verify import References, render_summary, toys, verify

    wanted, references, verdicts = toys(config, layouts), References(), []
    with console.progress("mixes", len(wanted)) as advance:
        for name, toy in wanted.items():
            verdicts.append(verify(name, toy, references))
            if not as_json:
                console.result(str(verdicts[-1]))
            advance(1)
    if as_json:
        console.result_json([asdict(verdict) for verdict in verdicts])
    else:
        console.result(render_summary(verdicts))
    if not all(verdict.is_sound for verdict in verdicts):
        raise typer.Exit(1)


@kernels_app.command("report")
def report_kernels(
    targets: Annotated[str, typer.Option("--target", help="GPUs to compile for; none need be here")] = "sm_80,sm_90",
    op: Annotated[Optional[str], typer.Option(help="only this operation")] = None,  # noqa: UP045
    into: Annotated[Optional[Path], typer.Option(help="write the table between the markers of this page")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Compile every kernel at real shapes, without a GPU: registers, spills, shared memory, bytes, least time."""
    from megacode.prove.kernel_report import compile_all, render, write_page

    rows = compile_all(targets, op)
    if into is not None:
        write_page(into, rows)
    if as_json:
        console.result_json([asdict(row) for row in rows])
    else:
        console.result(render(rows))
    if any(row.problem for row in rows):
        raise typer.Exit(1)


@kernels_app.command("check")
def check_kernels(
    out: Annotated[Optional[Path], typer.Option(help="JSON file to write")] = None,  # noqa: UP045
    op: Annotated[Optional[str], typer.Option(help="only this operation")] = None,  # noqa: UP045
    quick: Annotated[bool, typer.Option("--quick", help="fewer timed runs")] = False,
    tune: Annotated[bool, typer.Option("--tune", help="time every candidate tile too")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="no further case starts after these")] = 150,
    as_json: AsJson = False,
) -> None:
    """On this machine's GPU: are the kernels right, and how fast beside other implementations and the hardware."""
    from megacode.prove.kernel_check.check import check
    from megacode.prove.kernel_check.table import render
    from megacode.prove.kernel_check.worker import Work

    results = check(Work(op, quick, tune), seconds, console.say)
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    console.result_json(results) if as_json else console.result(render(results))
    if not results["sound"]:
        raise typer.Exit(1)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What this machine has, and which implementation of each operation would run on it."""
    from megacode.prove.doctor import examine, render

    found = examine()
    console.result_json(found) if as_json else console.result(render(found))


@app.command()
def complete(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint folder, or a run folder for its newest")],
    prefix: Annotated[str, typer.Option(help="text before")],
    suffix: Annotated[Optional[str], typer.Option(help="text after: fill in the middle")] = None,  # noqa: UP045
    tokens: Annotated[int, typer.Option(help="most tokens to make")] = 64,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token")] = 0.0,
    seed: Annotated[int, typer.Option(help="of the draw, with a temperature")] = 0,
    tokenizer: Annotated[Optional[Path], typer.Option(help="default: the run's own")] = None,  # noqa: UP045
) -> None:
    """Continue a prefix, or fill in the middle, with a trained model."""
    from megacode.evaluate.complete import Completer, Sampling

    completer = Completer.load(checkpoint, tokenizer)
    console.result(completer.complete(prefix, suffix, Sampling(tokens, temperature, seed)))


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(help="checkpoint.folder of the run")],
    out: Annotated[Path, typer.Option(help="the page to write")] = Path("report.html"),
    manifest: Annotated[Optional[Path], typer.Option(help="manifest.json of `prepare`")] = None,  # noqa: UP045
    title: Annotated[str, typer.Option(help="headline of the page")] = "megacode run",
) -> None:
    """Write one HTML file that opens offline: losses, throughput, pipeline timeline, data, completions."""
    from megacode.metrics.report import inputs_in, write_report

    write_report(inputs_in(run_folder, title, manifest), out)
    console.result(str(out))


@app.command()
def quickstart(
    run: RunFile,
    overrides: Overrides = None,
    source: Annotated[Optional[Path], typer.Option(help="your code; default: the standard library")] = None,  # noqa: UP045
    out: Out = Path("quickstart"),
) -> None:
    """From raw source code to a trained, exported model and a report, by the public commands, one after another."""
    from megacode.quickstart import quickstart

    quickstart(run, overrides or [], source, out)


def _checked_run(run: Path, overrides: list[str]) -> tuple[Any, Any]:
    """The configuration, with its files looked for too, and this process's place; all without torch."""
    from megacode.config import ConfigError, load_config
    from megacode.train.files import missing_files

    config = load_config(run, overrides)
    if problems := missing_files(config):
        raise ConfigError(str(run), problems, config.parallel.world_size)
    return config, _place()


def _place() -> Any:
    from megacode.train.place import Place

    number: Callable[[str, int], int] = lambda name, default: int(os.environ.get(name, default))  # noqa: E731
    return Place(number("RANK", 0), number("WORLD_SIZE", 1), number("LOCAL_RANK", 0))
