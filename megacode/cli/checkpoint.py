"""`megacode checkpoint`: what is saved, whether it is sound, the same in another form, and how two of them differ."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from megacode import console

checkpoint_app = typer.Typer(no_args_is_help=True, help="Look into checkpoints; verify, convert and compare them.")

Checkpoint = Annotated[Path, typer.Argument(help="checkpoint folder, or a run folder for its newest")]
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable result on stdout")]


@checkpoint_app.command("ls")
def ls(
    folder: Annotated[Path, typer.Argument(help="run folder (checkpoint.folder)")],
    as_json: AsJson = False,
) -> None:
    """List a run's checkpoints: step, tokens, length, the layout that wrote them, and whether files are missing."""
    from megacode.checkpoint.inspect import list_checkpoints, render_list

    found = list_checkpoints(folder)
    console.result_json([asdict(one) for one in found]) if as_json else console.result(render_list(found))
    if any(one.problem for one in found):
        raise typer.Exit(1)


@checkpoint_app.command("show")
def show(checkpoint: Checkpoint, as_json: AsJson = False) -> None:
    """Show what a checkpoint holds: state, configuration, tensors, files."""
    from megacode.checkpoint.inspect import render_show, show

    found = show(checkpoint)
    console.result_json(asdict(found)) if as_json else console.result(render_show(found))


@checkpoint_app.command("verify")
def verify(checkpoint: Checkpoint, as_json: AsJson = False) -> None:
    """Read every byte of a checkpoint, and name each file and tensor that is damaged."""
    from megacode.checkpoint.verify import render_verified, verify_all

    with console.progress("tensors") as advance:
        found = verify_all(checkpoint, advance)
    if as_json:
        console.result_json({**asdict(found), "sound": found.sound})
    else:
        console.result(render_verified(found))
    if not found.sound:
        raise typer.Exit(1)


@checkpoint_app.command("convert")
def convert(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="checkpoint folder to write; must not exist")],
    weights_only: Annotated[bool, typer.Option("--weights-only", help="leave the optimizer's state out")] = False,
    dtype: Annotated[str, typer.Option(help="F32, BF16 or F16; the smaller two with --weights-only")] = "",
    file_gigabytes: Annotated[float, typer.Option(min=0.001, help="most GB of a file")] = 4.0,
    as_json: AsJson = False,
) -> None:
    """Rewrite a checkpoint in files of a length of its own, whatever layout wrote it, or its weights alone.

    A run needs no conversion to go on in another layout.
    """
    from megacode.checkpoint.rewrite import convert, render_converted

    with console.progress("elements") as advance:
        kinds = ("master",) if weights_only else ()
        manifest = convert(checkpoint, out, kinds, dtype, int(file_gigabytes * 1e9), advance)
    told = {"folder": str(out), "bytes": manifest.bytes, "files": len(manifest.files), "kinds": manifest.kinds}
    console.result_json(told) if as_json else console.result(render_converted(out, manifest))


@checkpoint_app.command("diff")
def diff(
    first: Checkpoint,
    second: Checkpoint,
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints: settings, and each tensor's largest difference. Exits with 1 if a number differs."""
    from megacode.checkpoint.diff import diff, render_diff

    with console.progress("tensors") as advance:
        found = diff(first, second, advance)
    if as_json:
        console.result_json({**asdict(found), "equal": found.equal})
    else:
        console.result(render_diff(found))
    if not found.equal:
        raise typer.Exit(1)


@checkpoint_app.command("bench")
def bench(
    gigabytes: Annotated[float, typer.Option(min=0.01, help="weights and moments together")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="saves of each kind")] = 5,
    folder: Annotated[Optional[Path], typer.Option(help="where to write; default: here")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Measure how long a step waits for a save here. Exits with 1 if it is over 15 % of a save that is waited for."""
    from megacode.prove.checkpoint_bench import MOST_STALL, bench_checkpoint, render_checkpoint_bench

    found = bench_checkpoint(int(gigabytes * 1e9), rounds, folder or Path())
    if as_json:
        console.result_json({**asdict(found), "share": found.share})
    else:
        console.result(render_checkpoint_bench(found))
    if found.share > MOST_STALL:
        raise typer.Exit(1)
